//! Vigie from outside against a real Apache Kafka that the tests start: the program that users run, its topics and its signals.
//!
//! `make test` runs the short suite, `make test-faults` the long one, `make test-soak` and `make bench-delivery` measure. `VIGIE_TEST_BROKERS` names a broker that is there already for the tests
//! that need no broker of their own; `VIGIE_TEST_KAFKA_LIBS` the folder of the jars, `VIGIE_TEST_LOGS` one that keeps what the services logged.

mod broker;
mod commands;
mod delivery;
mod faults;
mod plot;
mod price;
mod proxy;
mod security;
mod service;
mod soak;
mod traffic;
