//! Behaviour from outside, without network and Docker.

mod cli;
mod stream;
