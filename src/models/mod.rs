//! The models a process scores with: the built-in one, and the handle through which every part sees the active one.

use std::sync::{Arc, PoisonError, RwLock};

use crate::scoring::Model;

/// The model that is built into the program.
///
/// # Panics
/// When the program was built with a broken model file, which the tests would have shown.
pub fn builtin() -> Model {
    Model::from_bytes(include_bytes!("default.vigie")).expect("the built-in model was checked by the tests")
}

/// Gives the active model. Clones share it: a replacement is seen by all.
#[derive(Debug, Clone)]
pub struct ModelHandle {
    // A lock, not an atomic pointer: it is taken once a batch and held for one reference count.
    active: Arc<RwLock<Arc<Model>>>,
}

impl ModelHandle {
    /// Makes a handle whose active model is `model`.
    pub fn new(model: Model) -> ModelHandle {
        ModelHandle { active: Arc::new(RwLock::new(Arc::new(model))) }
    }

    /// The active model. Take it once for a piece of work, so that the whole piece has one version.
    pub fn current(&self) -> Arc<Model> {
        Arc::clone(&self.active.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Makes another model the active one and returns the one before. Work under way finishes with the old one.
    pub fn replace(&self, model: Arc<Model>) -> Arc<Model> {
        std::mem::replace(&mut *self.active.write().unwrap_or_else(PoisonError::into_inner), model)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replacement_is_seen_by_every_clone_and_not_by_work_under_way() {
        let handle = ModelHandle::new(builtin());
        let clone = handle.clone();
        let under_way = handle.current();
        let next = Arc::new(builtin());
        let before = clone.replace(Arc::clone(&next));
        assert!(Arc::ptr_eq(&before, &under_way));
        assert!(Arc::ptr_eq(&handle.current(), &next));
    }
}
