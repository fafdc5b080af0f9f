//! Which model scores: a model in, the current one out, and a swap in between.

use std::sync::{Arc, PoisonError, RwLock};

use crate::scoring::{ArtifactError, Model};

/// Shares the current model between threads; cloning shares it too.
#[derive(Debug, Clone)]
pub struct ModelHandle {
    // A std lock: held for a pointer swap, never across an await.
    current: Arc<RwLock<Arc<Model>>>,
}

impl ModelHandle {
    pub fn new(model: Arc<Model>) -> ModelHandle {
        ModelHandle { current: Arc::new(RwLock::new(model)) }
    }

    /// The model to score with now.
    pub fn current(&self) -> Arc<Model> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Makes another model the current one; work that holds the one before finishes with it.
    pub fn replace(&self, model: Arc<Model>) {
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = model;
    }
}

/// The model that is built into the program.
pub fn builtin() -> Result<Model, ArtifactError> {
    Model::from_bytes(include_bytes!("default.vigie"))
}
