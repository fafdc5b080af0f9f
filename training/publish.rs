//! A candidate file in, a version in the registry out. It becomes active only when a person promotes it (`vigie model promote`).

use std::path::Path;

use anyhow::{Context, Result};
use vigie::models::registry::Registry;

/// Proves the candidate (form, checksum, canary texts) and puts it into the registry under its own version.
pub fn publish(candidate: &Path, registry: &Path) -> Result<()> {
    let bytes = std::fs::read(candidate).with_context(|| format!("could not read {}", candidate.display()))?;
    let version = Registry::open(registry)
        .publish(&bytes)
        .with_context(|| format!("could not publish {}", candidate.display()))?;
    println!("{version}");
    tracing::info!("compare with `vigie model diff`, then make it active with `vigie model promote {version}`");
    Ok(())
}
