//! What all objects of a deployment are found by.

use std::collections::BTreeMap;

use crate::profile::Profile;

/// The recommended labels of Kubernetes.
pub(crate) const NAME: &str = "app.kubernetes.io/name";
pub(crate) const INSTANCE: &str = "app.kubernetes.io/instance";
pub(crate) const COMPONENT: &str = "app.kubernetes.io/component";
pub(crate) const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
pub(super) const VERSION: &str = "app.kubernetes.io/version";

/// What `NAME` and `MANAGED_BY` say.
pub(super) const APPLICATION: &str = "scalekit";

/// Longest name of a deployment; labels end at 63 characters, and objects' names add to it.
const MAX_INSTANCE: usize = 30;

/// The deployment's name in the cluster: the profile's word, or its name as far as a DNS label takes it.
pub(crate) fn instance(profile: &Profile) -> String {
    if let Some(name) = &profile.deploy.kubernetes.name {
        return name.clone();
    }
    let plain: String = profile
        .name
        .to_lowercase()
        .chars()
        .map(|c| if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '-' })
        .take(MAX_INSTANCE)
        .collect();
    match plain.trim_matches('-') {
        "" => APPLICATION.to_owned(),
        plain => plain.to_owned(),
    }
}

/// Of an object of the deployment: `INSTANCE-COMPONENT`.
pub(crate) fn name_of(profile: &Profile, component: &str) -> String {
    format!("{}-{component}", instance(profile))
}

/// Finds all objects of a deployment; its namespace is none, since others may live there.
pub(crate) fn selector(profile: &Profile) -> String {
    format!("{INSTANCE}={},{MANAGED_BY}={APPLICATION}", instance(profile))
}

/// What a pod is found by; these never change, since a Deployment's selector cannot.
pub(super) fn identity(profile: &Profile, component: &str) -> BTreeMap<String, String> {
    BTreeMap::from([
        (NAME.to_owned(), APPLICATION.to_owned()),
        (INSTANCE.to_owned(), instance(profile)),
        (COMPONENT.to_owned(), component.to_owned()),
    ])
}

/// All labels of an object.
pub(super) fn labels(profile: &Profile, component: &str) -> BTreeMap<String, String> {
    let mut labels = identity(profile, component);
    labels.insert(MANAGED_BY.to_owned(), APPLICATION.to_owned());
    labels.insert(VERSION.to_owned(), env!("CARGO_PKG_VERSION").to_owned());
    labels
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::{Layer, load};

    #[test]
    fn a_deployment_has_a_name_that_kubernetes_takes() {
        let mut profile = load("default", Layer::default()).unwrap();
        for (name, expected) in [
            ("seed-10k", "seed-10k"),
            ("My Shop.prod", "my-shop-prod"),
            ("-_-", "scalekit"),
            ("ünter", "nter"),
            ("a23456789012345678901234567890-tail", "a23456789012345678901234567890"),
            ("a2345678901234567890123456789-tail", "a2345678901234567890123456789"),
        ] {
            profile.name = name.to_owned();
            assert_eq!(instance(&profile), expected);
        }
        profile.deploy.kubernetes.name = Some("shop".to_owned());
        assert_eq!(name_of(&profile, "api"), "shop-api");
        assert_eq!(
            selector(&profile),
            "app.kubernetes.io/instance=shop,app.kubernetes.io/managed-by=scalekit"
        );
    }
}
