//! Vigie reads texts from a Kafka topic and publishes five calibrated, explained moderation signals for each.
//!
//! [`scoring`] is the pure core; everything that can go wrong lives around it. `ARCHITECTURE.md` shows the whole.
#![forbid(unsafe_code)]

pub mod cli;
pub mod commands;
pub mod config;
pub mod depth;
pub mod http;
pub mod metrics;
pub mod models;
pub mod record;
pub mod scoring;
pub mod shutdown;
pub mod stream;
