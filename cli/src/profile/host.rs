//! The host's part of a profile: what kernel settings and limits it asks for, each with its reasons.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserializer, MapAccess, Visitor};
use serde::ser::SerializeMap as _;
use serde::{Deserialize, Serialize, Serializer};

use super::error::ProfileError;
use super::formula::Formulas;
use super::layer::section;
use super::resolve::Resolver;
use super::setting::{Merge, Setting};
use super::units::Whole;

type Found<T> = Result<T, ProfileError>;

impl Merge for Formulas {}
impl Merge for HugePages {}

section! {
    /// What the host's kernel and limits must be; `scalekit tune` brings them there.
    HostLayer {
        /// Users to tune for, `users` in formulas; `load.vus`, when left out (1 to 1000000).
        users: Whole,
        /// Whether capacities may be lowered. Without it a value that is higher already is kept.
        allow_lower: bool,
        /// Kernel settings by their names, such as `net.core.somaxconn`; `null` takes an inherited one away.
        sysctls: Named<SysctlLayer>,
        /// Resource limits of processes.
        limits: ProcessLimitsLayer,
        /// Transparent huge pages.
        transparent_huge_pages: HugePagesLayer,
        /// Kernel modules to load, by name; `null` takes an inherited one away.
        modules: Named<ModuleLayer>,
    }
}

section! {
    /// One kernel setting: `at_least`, `equals` or `includes`, and the reasons.
    SysctlLayer {
        /// Raise it to this; a number, a formula of `users`, `ram` (bytes) and `cores`, or a list of them for a key
        /// with several values. A range of ports widens.
        at_least: Formulas,
        /// Make it this.
        equals: Formulas,
        /// Ports and ranges that it must hold, such as `6379,30000-32767`; for `net.ipv4.ip_local_reserved_ports`.
        includes: String,
        /// Whether it is fine that a kernel does not have it.
        optional: bool,
        /// Why it should be so.
        why: String,
        /// What it may harm.
        risk: String,
        /// The counter that shows that it was the limit.
        proof: String,
        /// Where this is known from.
        source: String,
    }
}

section! {
    /// Resource limits of processes.
    ProcessLimitsLayer {
        /// Open files (RLIMIT_NOFILE).
        nofile: LimitLayer,
        /// Processes and threads of the user (RLIMIT_NPROC).
        nproc: LimitLayer,
    }
}

section! {
    /// One resource limit.
    LimitLayer {
        /// Raise it to this: a number, or a formula.
        at_least: Formulas,
        /// Why it should be so.
        why: String,
        /// What it may harm.
        risk: String,
        /// The counter that shows that it was the limit.
        proof: String,
        /// Where this is known from.
        source: String,
    }
}

section! {
    /// Transparent huge pages.
    HugePagesLayer {
        /// `always`, `madvise`, `never`, or `by-mongod`: always from MongoDB 8.0 on, never before, left alone without
        /// a mongod.
        mode: HugePages,
        /// Why it should be so.
        why: String,
        /// What it may harm.
        risk: String,
        /// The counter that shows that it was the limit.
        proof: String,
        /// Where this is known from.
        source: String,
    }
}

section! {
    /// One kernel module.
    ModuleLayer {
        /// Why it should be so.
        why: String,
        /// What it may harm.
        risk: String,
        /// The counter that shows that it was the limit.
        proof: String,
        /// Where this is known from.
        source: String,
    }
}

/// Sections by name; one that is `null` is taken away.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Named<T>(BTreeMap<String, Setting<T>>);

impl<T> Default for Named<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<T: Merge> Merge for Named<T> {
    fn over(mut self, parent: Self) -> Self {
        for (name, below) in parent.0 {
            let above = self.0.remove(&name).unwrap_or_default();
            self.0.insert(name, above.over(below));
        }
        self
    }
    fn sets(&self, path: &[&str]) -> bool {
        path.split_first().is_some_and(|(name, rest)| self.0.get(*name).is_some_and(|item| item.sets(rest)))
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Named<T> {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        struct NamedVisitor<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for NamedVisitor<T> {
            type Value = Named<T>;
            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("a map of names to sections")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Named<T>, A::Error> {
                let mut named = BTreeMap::new();
                while let Some(name) = map.next_key::<String>()? {
                    let item = map.next_value()?;
                    if named.insert(name.clone(), item).is_some() {
                        return Err(de::Error::custom(format!("duplicate field `{name}`")));
                    }
                }
                Ok(Named(named))
            }
        }
        input.deserialize_map(NamedVisitor(PhantomData))
    }
}

impl<T: JsonSchema> JsonSchema for Named<T> {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> std::borrow::Cow<'static, str> {
        format!("Named{}", T::schema_name()).into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let item = generator.subschema_for::<Option<T>>();
        json_schema!({ "type": "object", "additionalProperties": item })
    }
}

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
fn is_key(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    let mut parts = text.split('.');
    let known = parts.next().is_some_and(|first| ["fs", "kernel", "net", "vm"].contains(&first));
    let count = parts.clone().count();
    known && count > 0 && text.len() <= 120 && parts.all(|part| !part.is_empty() && part.chars().all(plain))
}

impl Resolver<'_> {
    pub(super) fn host(&self, layer: &HostLayer) -> Found<Host> {
        let section = layer.limits.value().cloned().unwrap_or_default();
        let limit = |name, layer: &Setting<LimitLayer>| {
            layer.value().map(|layer| self.limit(&["host", "limits", name], layer)).transpose()
        };
        let huge_pages = layer.transparent_huge_pages.value().map(|layer| {
            let path = ["host", "transparent_huge_pages"];
            let mode = self.required(&[path[0], path[1], "mode"], &layer.mode)?;
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
        let at = [path[0], path[1], path[2], "at_least"];
        let at_least = layer.at_least.value().cloned().filter(|formulas| formulas.0.len() == 1);
        Ok(Limit {
            at_least: at_least.ok_or_else(|| self.error(&at, "expected one value", "set it"))?,
            reasons: self.reasons(path, [&layer.why, &layer.risk, &layer.proof, &layer.source])?,
            location: self.place(path),
        })
    }

    fn modules(&self, layer: &HostLayer) -> Found<Vec<(String, Reasons)>> {
        let mut modules = Vec::new();
        for (name, setting) in layer.modules.value().map(|named| &named.0).into_iter().flatten() {
            let Some(layer) = setting.value() else { continue };
            let path = ["host", "modules", name];
            let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
            if name.is_empty() || name.len() > 56 || !name.chars().all(plain) {
                let message = "expected a module's name of letters, digits and _";
                return Err(self.error(&path, message, "write, for example, nf_conntrack"));
            }
            let reasons = self.reasons(&path, [&layer.why, &layer.risk, &layer.proof, &layer.source])?;
            modules.push((name.clone(), reasons));
        }
        Ok(modules)
    }

    fn reasons(&self, path: &[&str], texts: [&Setting<String>; 4]) -> Found<Reasons> {
        let text = |name, setting: &Setting<String>| self.text(&[path, &[name]].concat(), setting, line);
        Ok(Reasons {
            why: text("why", texts[0])?,
            risk: text("risk", texts[1])?,
            proof: text("proof", texts[2])?,
            source: text("source", texts[3])?,
        })
    }
}

/// Ports as the kernel writes them: single ones and ranges, with commas between.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PortSet(Vec<(u16, u16)>);

impl PortSet {
    /// `None` for anything but ports and ranges from the lower to the higher; nothing is the empty set.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut ranges = Vec::new();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let (low, high) = part.split_once('-').unwrap_or((part, part));
            let (low, high) = (low.trim().parse().ok()?, high.trim().parse().ok()?);
            (low <= high).then(|| ranges.push((low, high)))?;
        }
        Some(Self::merged(ranges))
    }

    /// The ports of either.
    pub(crate) fn union(&self, other: &Self) -> Self {
        Self::merged(self.0.iter().chain(&other.0).copied().collect())
    }

    fn merged(mut ranges: Vec<(u16, u16)>) -> Self {
        ranges.sort_unstable();
        let mut merged: Vec<(u16, u16)> = Vec::new();
        for (low, high) in ranges {
            match merged.last_mut() {
                Some(last) if low <= last.1.saturating_add(1) => last.1 = last.1.max(high),
                _ => merged.push((low, high)),
            }
        }
        Self(merged)
    }
}

impl fmt::Display for PortSet {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (low, high)) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            match low == high {
                true => write!(out, "{comma}{low}")?,
                false => write!(out, "{comma}{low}-{high}")?,
            }
        }
        Ok(())
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

    #[test]
    fn ports_unite_as_the_kernel_writes_them() {
        for (left, right, both) in [
            ("", "6379", "6379"),
            ("6379,27017", "6379", "6379,27017"),
            ("30000-32767", "32768-40000,5", "5,30000-40000"),
            ("1-65535", "80", "1-65535"),
        ] {
            let (left, right) = (PortSet::parse(left).unwrap(), PortSet::parse(right).unwrap());
            assert_eq!(left.union(&right).to_string(), both);
        }
        for text in ["x", "9-1", "70000", "1-", "-1"] {
            assert!(PortSet::parse(text).is_none(), "{text}");
        }
    }
}
