//! Behaviour from outside, without network and Docker.

mod deploy;
mod http;
mod taught;
