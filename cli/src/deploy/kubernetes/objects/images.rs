//! The images, each with its tag, in one place. Official ones: charts and images of third parties come and go.

use crate::profile::Profile;

pub(super) const REDIS: &str = "docker.io/library/redis:8.2.1-bookworm";
/// Version 8 wants huge pages on, and runs on kernels that have them; see `scalekit tune`.
pub(super) const MONGO: &str = "docker.io/library/mongo:8.0.12-noble";
/// Does nothing, and does it for good.
pub(super) const PAUSE: &str = "registry.k8s.io/pause:3.10";

/// Users in Redis' and MongoDB's images.
pub(super) const BACKEND_USER: i64 = 999;
/// The user in ours.
pub(super) const SERVICE_USER: i64 = 65532;

/// This program's own.
pub(super) fn scalekit(profile: &Profile) -> String {
    let named = profile.deploy.kubernetes.image.clone();
    named.unwrap_or_else(|| format!("scalekit:{}", env!("CARGO_PKG_VERSION")))
}
