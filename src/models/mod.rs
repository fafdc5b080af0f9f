//! Models at run time: model files in, the one that scores now out.

pub mod registry;
pub mod reload;

use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use crate::config::{ModelSettings, nearest};
use crate::scoring::{ArtifactError, Model};
use registry::{Registry, RegistryError};

/// The model file that is built into the program.
const BUILTIN: &[u8] = include_bytes!("default.vigie");
/// Name of the built-in model where a file or a version is asked for.
pub const BUILTIN_NAME: &str = "builtin";

/// The model that is built into the program, proven.
pub fn builtin() -> Result<Model, ArtifactError> {
    Model::from_bytes(BUILTIN)
}

/// The bytes of the built-in model file.
pub fn builtin_bytes() -> &'static [u8] {
    BUILTIN
}

/// Gives the active model. Clones share it: a replacement is seen by all.
#[derive(Debug, Clone)]
pub struct ModelHandle {
    // A lock, not an atomic pointer: it is taken once a batch and held for one reference count.
    active: Arc<RwLock<Arc<Model>>>,
}

impl ModelHandle {
    /// Makes a handle whose active model is `model`.
    pub fn new(model: Arc<Model>) -> ModelHandle {
        ModelHandle { active: Arc::new(RwLock::new(model)) }
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

/// Why no model could be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("could not read model file \"{path}\"")]
    Unreadable { path: String, source: std::io::Error },
    #[error("could not load model \"{name}\"")]
    Broken { name: String, source: ArtifactError },
    #[error("there is no model file and no version \"{name}\" in registry \"{registry}\"")]
    Unknown { name: String, registry: String, nearest: Option<String> },
    #[error(transparent)]
    Registry(#[from] RegistryError),
}

impl LoadError {
    /// The next step.
    pub fn hint(&self) -> String {
        match self {
            LoadError::Unreadable { .. } => "check the path and its permissions".to_owned(),
            LoadError::Broken { name, source } => match source {
                ArtifactError::FormatVersion(_) | ArtifactError::FeatureSpec(_) => {
                    "train it again with the `vigie-train` of this version, or use the vigie that made it".to_owned()
                }
                _ => format!("fetch the file again; `vigie model verify {name}` repeats this check"),
            },
            LoadError::Unknown { nearest: Some(nearest), .. } => format!("did you mean \"{nearest}\"?"),
            LoadError::Unknown { .. } => {
                "`vigie model list` shows the versions; `--registry` or `--model FILE` names another place".to_owned()
            }
            LoadError::Registry(error) => error.hint(),
        }
    }
}

/// Loads and proves the model that the settings name: a file, a version in the registry, `builtin`, or, for an empty name, the registry's
/// active version and without one the built-in model.
pub fn load(settings: &ModelSettings) -> Result<Model, LoadError> {
    let bytes = read(settings)?;
    let broken = |source| LoadError::Broken { name: shown_name(settings), source };
    Model::from_bytes(&bytes).map_err(broken)
}

/// Reads the bytes of the model that the settings name, without proving more than where they come from.
pub fn read(settings: &ModelSettings) -> Result<Vec<u8>, LoadError> {
    let name = settings.model.as_str();
    if name == BUILTIN_NAME {
        return Ok(BUILTIN.to_vec());
    }
    if is_file_name(name) {
        return std::fs::read(name).map_err(|source| LoadError::Unreadable { path: name.to_owned(), source });
    }
    let registry = Registry::open(&settings.registry);
    if name.is_empty() {
        return match registry.active()? {
            Some(active) => Ok(registry.read_active(&active)?),
            None => Ok(BUILTIN.to_vec()),
        };
    }
    match registry.read(name) {
        Err(RegistryError::NoSuchVersion { .. }) => Err(LoadError::Unknown {
            name: name.to_owned(),
            registry: settings.registry.display().to_string(),
            nearest: nearest(name, registry.versions()?.into_iter().map(|stored| stored.version)),
        }),
        found => Ok(found?),
    }
}

fn is_file_name(name: &str) -> bool {
    name.contains(['/', '\\']) || name.ends_with(".vigie") || Path::new(name).is_file()
}

fn shown_name(settings: &ModelSettings) -> String {
    if !settings.model.is_empty() {
        return settings.model.clone();
    }
    let active = Registry::open(&settings.registry).active().ok().flatten();
    active.map_or_else(|| BUILTIN_NAME.to_owned(), |active| active.version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replacement_is_seen_by_every_clone_and_not_by_work_under_way() {
        let handle = ModelHandle::new(Arc::new(builtin().unwrap()));
        let clone = handle.clone();
        let under_way = handle.current();
        let next = Arc::new(builtin().unwrap());
        let before = clone.replace(Arc::clone(&next));
        assert!(Arc::ptr_eq(&before, &under_way));
        assert!(Arc::ptr_eq(&handle.current(), &next));
    }
}
