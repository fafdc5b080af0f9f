//! The model registry: a folder of `VERSION.vigie` files and a pointer to the active one in, proven bytes and promotions out.
//!
//! `active.json` names the active version with the SHA-256 that its file had when it was promoted, and the versions before it, for rolling
//! back. Files are written beside their place and renamed, so that a reader sees the old or the new one, never half of it. Everything
//! that touches the folder goes through `Folder`'s three calls; an object store needs the same three.

use std::io;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::scoring::{ArtifactError, Model};

const POINTER: &str = "active.json";
const SUFFIX: &str = ".vigie";

/// A place for model versions.
#[derive(Debug, Clone)]
pub struct Registry {
    folder: Folder,
}

/// A version that lies in the registry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Stored {
    pub version: String,
    pub n_bytes: u64,
    /// When the file was written.
    pub stored_at: Option<Timestamp>,
}

/// A version as it was promoted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Promoted {
    pub version: String,
    /// Of the file when it was promoted; a file that has changed since is refused.
    pub sha256: String,
    pub promoted_at: Timestamp,
}

/// The pointer file. No `active`: the model built into the program.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Pointer {
    active: Option<Promoted>,
    /// What was active before, oldest first; `null` stands for the built-in model.
    previous: Vec<Option<Promoted>>,
}

/// Why the registry can't do it.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    #[error("registry \"{folder}\" could not be {attempted}")]
    Io { folder: String, attempted: &'static str, source: io::Error },
    #[error("\"{0}\" is not a version name")]
    BadName(String),
    #[error("there is no version \"{version}\" in registry \"{folder}\"")]
    NoSuchVersion { version: String, folder: String },
    #[error("version \"{version}\" is in registry \"{folder}\" already, with other content")]
    Exists { version: String, folder: String },
    #[error("could not load model \"{version}\"")]
    Broken { version: String, source: ArtifactError },
    #[error("file of version \"{version}\" holds version \"{found}\"")]
    Misnamed { version: String, found: String },
    #[error("file of version \"{version}\" has changed since it was promoted")]
    Changed { version: String },
    #[error("pointer \"{folder}/{POINTER}\" can't be read")]
    BrokenPointer { folder: String, source: serde_json::Error },
    #[error("no version was active before this one")]
    NothingBefore,
}

impl RegistryError {
    /// The next step.
    pub fn hint(&self) -> String {
        match self {
            RegistryError::Io { .. } => "check the folder given with --registry and its permissions".to_owned(),
            RegistryError::BadName(_) => {
                "a version is made of letters, digits, `.`, `_` and `-`, such as 2026-11-22-a".to_owned()
            }
            RegistryError::NoSuchVersion { .. } => "`vigie model list` shows the versions".to_owned(),
            RegistryError::Exists { .. } => "give the new model a version of its own".to_owned(),
            RegistryError::Broken { version, .. }
            | RegistryError::Misnamed { version, .. }
            | RegistryError::Changed { version } => format!(
                "check it with `vigie model verify {version}`, or return to the version before with `vigie model rollback`"
            ),
            RegistryError::BrokenPointer { .. } => {
                "remove the file to start from the built-in model, then promote again".to_owned()
            }
            RegistryError::NothingBefore => "`vigie model promote VERSION` makes any version active".to_owned(),
        }
    }
}

impl Registry {
    /// Names the folder; it need not exist before something is stored.
    pub fn open(folder: &Path) -> Registry {
        Registry { folder: Folder(folder.to_owned()) }
    }

    /// All versions, by name.
    pub fn versions(&self) -> Result<Vec<Stored>, RegistryError> {
        let files = self.folder.list().map_err(|source| self.io("listed", source))?;
        let stored = |(name, n_bytes, stored_at): (String, u64, Option<Timestamp>)| {
            let version = name.strip_suffix(SUFFIX).filter(|version| is_version(version))?.to_owned();
            Some(Stored { version, n_bytes, stored_at })
        };
        let mut versions: Vec<Stored> = files.into_iter().filter_map(stored).collect();
        versions.sort_by(|a, b| a.version.cmp(&b.version));
        Ok(versions)
    }

    /// The active version; `None` for the model built into the program.
    pub fn active(&self) -> Result<Option<Promoted>, RegistryError> {
        Ok(self.pointer()?.active)
    }

    /// What was active before, oldest first; `None` stands for the built-in model.
    pub fn history(&self) -> Result<Vec<Option<Promoted>>, RegistryError> {
        Ok(self.pointer()?.previous)
    }

    /// The bytes of a version's file, unproven.
    pub fn read(&self, version: &str) -> Result<Vec<u8>, RegistryError> {
        let found = self.folder.get(&file_of(version)?).map_err(|source| self.io("read", source))?;
        found.ok_or_else(|| RegistryError::NoSuchVersion { version: version.to_owned(), folder: self.folder.shown() })
    }

    /// The bytes of the active version's file, when they are still those that were promoted.
    pub fn read_active(&self, active: &Promoted) -> Result<Vec<u8>, RegistryError> {
        let bytes = self.read(&active.version)?;
        if sha256_of(&bytes) != active.sha256 {
            return Err(RegistryError::Changed { version: active.version.clone() });
        }
        Ok(bytes)
    }

    /// Loads a version and proves it: form, checksum, canary texts, and that it is the version that its name says.
    pub fn verify(&self, version: &str) -> Result<Model, RegistryError> {
        let bytes = self.read(version)?;
        let model = prove(version, &bytes)?;
        if let Some(active) = self.active()?.filter(|active| active.version == version) {
            self.read_active(&active)?;
        }
        Ok(model)
    }

    /// Stores a proven model file under the version that it names and returns that version. Storing the same bytes again changes nothing.
    pub fn publish(&self, bytes: &[u8]) -> Result<String, RegistryError> {
        let broken = |source| RegistryError::Broken { version: "new".to_owned(), source };
        let version = Model::from_bytes(bytes).map_err(broken)?.version().to_owned();
        let name = file_of(&version)?;
        match self.folder.get(&name).map_err(|source| self.io("read", source))? {
            Some(present) if present == bytes => return Ok(version),
            Some(_) => return Err(RegistryError::Exists { version, folder: self.folder.shown() }),
            None => {}
        }
        self.folder.put(&name, bytes).map_err(|source| self.io("written", source))?;
        Ok(version)
    }

    /// Proves a version and makes it the active one.
    pub fn promote(&self, version: &str) -> Result<Promoted, RegistryError> {
        let bytes = self.read(version)?;
        prove(version, &bytes)?;
        let promoted = Promoted {
            version: version.to_owned(),
            sha256: sha256_of(&bytes),
            promoted_at: Timestamp::now().round(jiff::Unit::Second).unwrap_or_else(|_| Timestamp::now()),
        };
        let mut pointer = self.pointer()?;
        match &pointer.active {
            Some(active) if active.version == version && active.sha256 == promoted.sha256 => return Ok(active.clone()),
            _ => pointer.previous.push(pointer.active.take()),
        }
        pointer.active = Some(promoted.clone());
        self.set_pointer(&pointer)?;
        Ok(promoted)
    }

    /// Makes the version before the active one active again; `None`: it was the built-in model. Again and again it goes further back.
    pub fn rollback(&self) -> Result<Option<Promoted>, RegistryError> {
        let mut pointer = self.pointer()?;
        let before = pointer.previous.pop().ok_or(RegistryError::NothingBefore)?;
        if let Some(before) = &before {
            prove(&before.version, &self.read_active(before)?)?;
        }
        pointer.active = before;
        self.set_pointer(&pointer)?;
        Ok(pointer.active)
    }

    fn pointer(&self) -> Result<Pointer, RegistryError> {
        match self.folder.get(POINTER).map_err(|source| self.io("read", source))? {
            Some(bytes) => serde_json::from_slice(&bytes)
                .map_err(|source| RegistryError::BrokenPointer { folder: self.folder.shown(), source }),
            None => Ok(Pointer::default()),
        }
    }

    fn set_pointer(&self, pointer: &Pointer) -> Result<(), RegistryError> {
        let mut bytes = serde_json::to_vec_pretty(pointer).expect("a pointer has string keys only");
        bytes.push(b'\n');
        self.folder.put(POINTER, &bytes).map_err(|source| self.io("written", source))
    }

    fn io(&self, attempted: &'static str, source: io::Error) -> RegistryError {
        RegistryError::Io { folder: self.folder.shown(), attempted, source }
    }
}

fn prove(version: &str, bytes: &[u8]) -> Result<Model, RegistryError> {
    let broken = |source| RegistryError::Broken { version: version.to_owned(), source };
    let model = Model::from_bytes(bytes).map_err(broken)?;
    if model.version() != version {
        return Err(RegistryError::Misnamed { version: version.to_owned(), found: model.version().to_owned() });
    }
    Ok(model)
}

fn sha256_of(bytes: &[u8]) -> String {
    format!("{:x}", Sha256::digest(bytes))
}

/// The file of a version. A name can't leave the folder.
fn file_of(version: &str) -> Result<String, RegistryError> {
    if !is_version(version) {
        return Err(RegistryError::BadName(version.to_owned()));
    }
    Ok(format!("{version}{SUFFIX}"))
}

fn is_version(version: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (1..=64).contains(&version.len()) && version.bytes().all(allowed) && !version.starts_with(['.', '-'])
}

/// Files by name.
#[derive(Debug, Clone)]
struct Folder(PathBuf);

impl Folder {
    fn get(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        match std::fs::read(self.0.join(name)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn put(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        std::fs::create_dir_all(&self.0)?;
        // The process id keeps two writers apart; the leading dot keeps a half-written file out of the list.
        let beside = self.0.join(format!(".{name}.{}", std::process::id()));
        let written = std::fs::write(&beside, bytes)
            .and_then(|()| std::fs::File::open(&beside)?.sync_all())
            .and_then(|()| std::fs::rename(&beside, self.0.join(name)));
        if written.is_err() {
            // The first error is the one to tell.
            let _ = std::fs::remove_file(&beside);
        }
        written
    }

    /// Names, sizes in bytes and times of all files; none when there is no folder.
    fn list(&self) -> io::Result<Vec<(String, u64, Option<Timestamp>)>> {
        let entries = match std::fs::read_dir(&self.0) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut files = Vec::new();
        for entry in entries {
            let entry = entry?;
            let about = entry.metadata()?;
            let written_at = about.modified().ok().and_then(|time| Timestamp::try_from(time).ok());
            if about.is_file() {
                files.push((entry.file_name().to_string_lossy().into_owned(), about.len(), written_at));
            }
        }
        Ok(files)
    }

    fn shown(&self) -> String {
        self.0.display().to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scoring::Artifact;

    fn file_of_version(version: &str) -> Vec<u8> {
        let mut artifact = Artifact::read(crate::models::builtin_bytes()).unwrap();
        artifact.header.version = version.to_owned();
        artifact.write()
    }

    fn name(promoted: Option<Promoted>) -> Option<String> {
        promoted.map(|promoted| promoted.version)
    }

    #[test]
    fn rolling_back_retraces_promotions_to_the_built_in_model() {
        let folder = tempfile::tempdir().unwrap();
        let registry = Registry::open(folder.path());
        for version in ["a", "b"] {
            assert_eq!(registry.publish(&file_of_version(version)).unwrap(), version);
            registry.promote(version).unwrap();
            registry.promote(version).unwrap();
        }
        assert_eq!(name(registry.active().unwrap()), Some("b".to_owned()));
        assert_eq!(name(registry.rollback().unwrap()), Some("a".to_owned()));
        assert_eq!(name(registry.rollback().unwrap()), None);
        assert_eq!(name(registry.active().unwrap()), None);
        assert!(matches!(registry.rollback(), Err(RegistryError::NothingBefore)));
        let versions: Vec<_> = registry.versions().unwrap().into_iter().map(|stored| stored.version).collect();
        assert_eq!(versions, ["a", "b"]);
    }

    #[test]
    fn a_broken_or_misnamed_file_is_never_promoted() {
        let folder = tempfile::tempdir().unwrap();
        let registry = Registry::open(folder.path());
        let mut bytes = file_of_version("a");
        std::fs::write(folder.path().join("b.vigie"), &bytes).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(folder.path().join("a.vigie"), &bytes).unwrap();
        let checksum = |error| matches!(error, RegistryError::Broken { source: ArtifactError::Checksum, .. });
        assert!(checksum(registry.promote("a").unwrap_err()));
        assert!(matches!(registry.promote("b"), Err(RegistryError::Misnamed { .. })));
        assert!(matches!(registry.promote("c"), Err(RegistryError::NoSuchVersion { .. })));
        assert!(matches!(registry.promote("../a"), Err(RegistryError::BadName(_))));
        assert_eq!(registry.active().unwrap(), None);
    }

    #[test]
    fn a_file_that_changed_after_its_promotion_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let registry = Registry::open(folder.path());
        registry.publish(&file_of_version("a")).unwrap();
        let active = registry.promote("a").unwrap();
        assert!(registry.read_active(&active).is_ok());
        let mut artifact = Artifact::read(&file_of_version("a")).unwrap();
        artifact.header.seed += 1;
        let altered = artifact.write();
        assert!(matches!(registry.publish(&altered), Err(RegistryError::Exists { .. })));
        std::fs::write(folder.path().join("a.vigie"), &altered).unwrap();
        assert!(matches!(registry.read_active(&active), Err(RegistryError::Changed { .. })));
        assert!(matches!(registry.verify("a"), Err(RegistryError::Changed { .. })));
    }
}
