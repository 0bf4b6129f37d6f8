//! The host's part of a profile: what kernel settings and limits it asks for, each with its reasons.

use schemars::JsonSchema;
use serde::ser::SerializeMap as _;
use serde::{Deserialize, Serialize, Serializer};

use super::error::ProfileError;
use super::formula::Formulas;
use super::host_layer::{HostLayer, LimitLayer};
use super::ports::PortSet;
use super::resolve::Resolver;
use super::setting::Setting;

type Found<T> = Result<T, ProfileError>;

/// How memory is backed by huge pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub(crate) enum HugePages {
    Always,
    Madvise,
    Never,
    /// As the mongod on this host wants it.
    ByMongod,
}

/// What the host is to be.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Host {
    pub(crate) users: Option<u32>,
    pub(crate) allow_lower: bool,
    #[serde(serialize_with = "sysctls")]
    pub(crate) sysctls: Vec<Sysctl>,
    pub(crate) limits: ProcessLimits,
    pub(crate) transparent_huge_pages: Option<HugePagesSpec>,
    #[serde(serialize_with = "modules")]
    pub(crate) modules: Vec<(String, Reasons)>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct ProcessLimits {
    pub(crate) nofile: Option<Limit>,
    pub(crate) nproc: Option<Limit>,
}

/// Why a setting is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Reasons {
    pub(crate) why: String,
    pub(crate) risk: String,
    pub(crate) proof: String,
    pub(crate) source: String,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Sysctl {
    /// With dots.
    #[serde(skip)]
    pub(crate) key: String,
    #[serde(flatten)]
    pub(crate) wanted: Wanted,
    pub(crate) optional: bool,
    #[serde(flatten)]
    pub(crate) reasons: Reasons,
    /// `file:line:column`.
    #[serde(skip)]
    pub(crate) location: String,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Wanted {
    AtLeast(Formulas),
    Equals(Formulas),
    Includes(String),
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Limit {
    pub(crate) at_least: Formulas,
    #[serde(flatten)]
    pub(crate) reasons: Reasons,
    #[serde(skip)]
    pub(crate) location: String,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct HugePagesSpec {
    pub(crate) mode: HugePages,
    #[serde(flatten)]
    pub(crate) reasons: Reasons,
}

impl Host {
    /// Whether it asks for nothing.
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self { users: self.users, allow_lower: self.allow_lower, ..Self::default() }
    }
}

fn sysctls<S: Serializer>(sysctls: &[Sysctl], output: S) -> Result<S::Ok, S::Error> {
    let mut map = output.serialize_map(Some(sysctls.len()))?;
    for sysctl in sysctls {
        map.serialize_entry(&sysctl.key, sysctl)?;
    }
    map.end()
}

fn modules<S: Serializer>(modules: &[(String, Reasons)], output: S) -> Result<S::Ok, S::Error> {
    output.collect_map(modules.iter().map(|(name, reasons)| (name, reasons)))
}

/// Shown in tables and in files: one line.
fn line(text: &str) -> Result<(), String> {
    let fits = !text.trim().is_empty() && text.len() <= 500 && !text.chars().any(char::is_control);
    fits.then_some(()).ok_or_else(|| "one line of up to 500 bytes".to_owned())
}

/// A name below /proc/sys that cannot lead out of it.
pub(crate) fn is_key(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    let mut parts = text.split('.');
    let known = parts.next().is_some_and(|first| ["fs", "kernel", "net", "vm"].contains(&first));
    let count = parts.clone().count();
    known && count > 0 && text.len() <= 120 && parts.all(|part| !part.is_empty() && part.chars().all(plain))
}

/// A module's name, which is no path.
pub(crate) fn is_module(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
    (1..=56).contains(&name.len()) && name.chars().all(plain)
}

impl Resolver<'_> {
    pub(super) fn host(&self, layer: &HostLayer) -> Found<Host> {
        let section = layer.limits.value().cloned().unwrap_or_default();
        let limit = |name, layer: &Setting<LimitLayer>| {
            layer.value().map(|layer| self.limit(&["host", "limits", name], layer)).transpose()
        };
        let huge_pages = layer.transparent_huge_pages.value().map(|layer| {
            let path = ["host", "transparent_huge_pages"];
            let mode = layer.mode.value().copied();
            let mode = mode.ok_or_else(|| self.error(&path, "expected `mode`, found none", "set it"))?;
            let reasons = self.reasons(&path, [&layer.why, &layer.risk, &layer.proof, &layer.source])?;
            Ok(HugePagesSpec { mode, reasons })
        });
        Ok(Host {
            users: self.optional(&["host", "users"], &layer.users, 1..=1_000_000)?,
            allow_lower: self.required(&["host", "allow_lower"], &layer.allow_lower)?,
            sysctls: self.sysctls(layer)?,
            limits: ProcessLimits {
                nofile: limit("nofile", &section.nofile)?,
                nproc: limit("nproc", &section.nproc)?,
            },
            transparent_huge_pages: huge_pages.transpose()?,
            modules: self.modules(layer)?,
        })
    }

    fn sysctls(&self, layer: &HostLayer) -> Found<Vec<Sysctl>> {
        let mut sysctls = Vec::new();
        for (key, setting) in layer.sysctls.value().map(|named| &named.0).into_iter().flatten() {
            let Some(layer) = setting.value() else { continue };
            let path = ["host", "sysctls", key];
            if !is_key(key) {
                let message = "expected a kernel setting's name with dots, below fs, kernel, net or vm";
                return Err(self.error(&path, message, "write, for example, net.core.somaxconn"));
            }
            let ways = [
                layer.at_least.value().cloned().map(Wanted::AtLeast),
                layer.equals.value().cloned().map(Wanted::Equals),
                layer.includes.value().cloned().map(Wanted::Includes),
            ];
            let mut ways = ways.into_iter().flatten();
            let (Some(wanted), None) = (ways.next(), ways.next()) else {
                let message = "expected one of at_least, equals and includes";
                return Err(self.error(
                    &path,
                    message,
                    "set one of them (`null` takes an inherited one away)",
                ));
            };
            if let Wanted::Includes(text) = &wanted
                && PortSet::parse(text).is_none()
            {
                let path = [path[0], path[1], path[2], "includes"];
                let message = format!("expected ports and ranges such as 6379,30000-32767, found {text:?}");
                return Err(self.error(&path, message, "correct the list"));
            }
            sysctls.push(Sysctl {
                key: key.clone(),
                wanted,
                optional: layer.optional.value().copied().unwrap_or(false),
                reasons: self.reasons(&path, [&layer.why, &layer.risk, &layer.proof, &layer.source])?,
                location: self.place(&path),
            });
        }
        Ok(sysctls)
    }

    fn limit(&self, path: &[&str; 3], layer: &LimitLayer) -> Found<Limit> {
        let at_least = layer.at_least.value().cloned().filter(|formulas| formulas.0.len() == 1);
        Ok(Limit {
            at_least: at_least
                .ok_or_else(|| self.error(path, "expected one value of `at_least`", "set it"))?,
            reasons: self.reasons(path, [&layer.why, &layer.risk, &layer.proof, &layer.source])?,
            location: self.place(path),
        })
    }

    fn modules(&self, layer: &HostLayer) -> Found<Vec<(String, Reasons)>> {
        let mut modules = Vec::new();
        for (name, setting) in layer.modules.value().map(|named| &named.0).into_iter().flatten() {
            let Some(layer) = setting.value() else { continue };
            let path = ["host", "modules", name];
            if !is_module(name) {
                let message = "expected a module's name of letters, digits and _";
                return Err(self.error(&path, message, "write, for example, nf_conntrack"));
            }
            let reasons = self.reasons(&path, [&layer.why, &layer.risk, &layer.proof, &layer.source])?;
            modules.push((name.clone(), reasons));
        }
        Ok(modules)
    }

    fn reasons(&self, path: &[&str], texts: [&Setting<String>; 4]) -> Found<Reasons> {
        let text = |name, setting: &Setting<String>| {
            // A key that is nowhere has no place; its section has.
            if setting.value().is_none() {
                return Err(self.error(path, format!("expected `{name}`, found none"), "set it"));
            }
            self.text(&[path, &[name]].concat(), setting, line)
        };
        Ok(Reasons {
            why: text("why", texts[0])?,
            risk: text("risk", texts[1])?,
            proof: text("proof", texts[2])?,
            source: text("source", texts[3])?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_lead_out_of_the_tree() {
        for (key, fits) in [
            ("net.core.somaxconn", true),
            ("vm.swappiness", true),
            ("vm", false),
            ("net..core", false),
            ("net.core/../x", false),
            ("dev.raid.speed", false),
            ("net.core.", false),
        ] {
            assert_eq!(is_key(key), fits, "{key}");
        }
    }
}
