//! Kafka in, Kafka out.

pub mod message;
