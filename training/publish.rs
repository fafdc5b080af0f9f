//! A candidate file in, a version in the registry out. It becomes active only when a person promotes it (`vigie model promote`).

use std::path::Path;

use anyhow::{Context, Result};
use vigie::models::registry::Registry;
use vigie::scoring::Model;

/// Proves the candidate (form, checksum, canary texts) and puts it into the registry under its own version.
pub fn publish(candidate: &Path, registry: &Path) -> Result<()> {
    let bytes = std::fs::read(candidate).with_context(|| format!("could not read {}", candidate.display()))?;
    let model = Model::from_bytes(&bytes).with_context(|| format!("could not load model {}", candidate.display()))?;
    Registry::open(registry)?.add(model.version(), &bytes)?;
    println!("{}", model.version());
    tracing::info!("compare with `vigie model diff`, then make it active with `vigie model promote {}`", model.version());
    Ok(())
}
