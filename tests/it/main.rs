//! Behaviour from outside, without network and Docker.

mod cli;
mod deploy;
mod http;
mod stream;
mod taught;
