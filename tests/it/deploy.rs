//! What lies in `deploy/` against the code: schemas against records, dashboards, alert rules and `docs/metrics.md` against metrics.
