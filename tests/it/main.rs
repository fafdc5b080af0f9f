//! Behaviour from outside: no network beyond loopback, no Docker.

mod architecture;
mod cli;
mod connection;
mod core;
mod deploy;
mod functional;
mod golden;
mod http;
mod stream;
mod taught;
