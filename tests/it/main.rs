//! Behaviour from outside, without network and Docker.

mod stream;
