//! Finds the layers of a profile: built-in, file or flags, each with what it extends.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use super::error::{ProfileError, nearest};
use super::layer::Layer;
use super::locate::locate;
use super::setting::Setting;

/// Largest profile file, in bytes: a hundred times what one needs.
const MAX_FILE_BYTES: u64 = 1 << 20;
/// Most profiles in one chain of `extends`.
const MAX_DEPTH: usize = 8;

/// The built-in profiles, `default` first.
pub(super) const BUILT_IN: [(&str, &str); 11] = [
    ("default", include_str!("../../../profiles/default.yaml")),
    ("local", include_str!("../../../profiles/local.yaml")),
    ("redis-mongo", include_str!("../../../profiles/redis-mongo.yaml")),
    ("direct", include_str!("../../../profiles/direct.yaml")),
    ("seed-1200", include_str!("../../../profiles/seed-1200.yaml")),
    ("seed-10k", include_str!("../../../profiles/seed-10k.yaml")),
    ("ci", include_str!("../../../profiles/ci.yaml")),
    ("host-10k", include_str!("../../../profiles/host-10k.yaml")),
    ("host-100k", include_str!("../../../profiles/host-100k.yaml")),
    ("host-loadgen", include_str!("../../../profiles/host-loadgen.yaml")),
    ("host-seed", include_str!("../../../profiles/host-seed.yaml")),
];

/// The profile that all others stand on.
pub(super) const BASE: &str = "default";

/// One layer and where it comes from.
pub(super) struct Source {
    /// Shown in errors: the file as named, or `profile NAME`, or `command line`.
    pub(super) name: String,
    /// `None` for the command line.
    pub(super) text: Option<String>,
    pub(super) layer: Layer,
}

/// What a profile name refers to.
#[derive(Clone, PartialEq)]
enum Reference {
    BuiltIn(&'static str, &'static str),
    File(PathBuf),
}

impl Source {
    /// The command line as a layer.
    pub(super) fn flags(layer: Layer) -> Self {
        Self { name: "command line".to_owned(), text: None, layer }
    }

    fn read(reference: &Reference) -> Result<Self, ProfileError> {
        let (name, text) = match reference {
            Reference::BuiltIn(name, text) => (format!("profile {name}"), (*text).to_owned()),
            Reference::File(path) => (path.display().to_string(), read_file(path)?),
        };
        // A file of comments only says nothing, which is fine.
        let layer: Option<Layer> =
            serde_yaml::from_str(&text).map_err(|error| ProfileError::from_yaml(&name, &error))?;
        Ok(Self { name, text: Some(text), layer: layer.unwrap_or_default() })
    }

    /// `file:line:column` of the value at `path`, the flag that sets it, or just the source's name.
    pub(super) fn place(&self, path: &[&str]) -> String {
        match &self.text {
            None => flag(path),
            Some(text) => match locate(text, path) {
                Some((line, column)) => format!("{}:{line}:{column}", self.name),
                None => self.name.clone(),
            },
        }
    }
}

/// The layers of a profile, the top one first, `default` last.
pub(super) fn chain(name_or_path: &str) -> Result<(String, Vec<Source>), ProfileError> {
    let mut reference = refer(name_or_path, None)
        .map_err(|help| ProfileError::new(name_or_path, "there is no such profile", help))?;
    let name = match &reference {
        Reference::BuiltIn(name, _) => (*name).to_owned(),
        Reference::File(path) => path.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
    };
    let mut seen: Vec<Reference> = Vec::new();
    let mut sources: Vec<Source> = Vec::new();
    loop {
        let source = Source::read(&reference)?;
        seen.push(identity(&reference));
        let base = match source.layer.extends.value() {
            Some(base) => base.clone(),
            None if matches!(reference, Reference::BuiltIn(BASE, _)) => {
                sources.push(source);
                return Ok((name, sources));
            }
            None => BASE.to_owned(),
        };
        let directory = match (&reference, &source.layer.extends) {
            (Reference::File(path), Setting::To(_)) => Some(path.parent().unwrap_or(Path::new(""))),
            _ => None,
        };
        let place = source.place(&["extends"]);
        let next = match directory {
            Some(directory) => refer(&base, Some(directory)),
            None => built_in(&base),
        }
        .map_err(|help| ProfileError::new(&*place, format!("extends: there is no profile `{base}`"), help))?;
        if seen.contains(&identity(&next)) {
            return Err(ProfileError::new(
                place,
                format!("extends: `{base}` extends this profile in turn"),
                "take one `extends` of the circle away",
            ));
        }
        if seen.len() >= MAX_DEPTH && next != Reference::BuiltIn(BASE, BUILT_IN[0].1) {
            return Err(ProfileError::new(
                place,
                format!("extends: more than {MAX_DEPTH} profiles build on one another"),
                "merge some of them",
            ));
        }
        sources.push(source);
        reference = next;
    }
}

/// The same file counts as the same however it was named.
fn identity(reference: &Reference) -> Reference {
    match reference {
        Reference::File(path) => Reference::File(path.canonicalize().unwrap_or_else(|_| path.clone())),
        built_in => built_in.clone(),
    }
}

/// What a name refers to. The name of a built-in profile is that profile's, whatever files lie in the directory, where
/// somebody else may write: root obeys profiles. The error is the advice.
fn refer(name: &str, directory: Option<&Path>) -> Result<Reference, String> {
    let path = directory.map_or_else(|| PathBuf::from(name), |directory| directory.join(name));
    let names_a_file = name.contains('/') || name.ends_with(".yaml") || name.ends_with(".yml");
    match built_in(name) {
        Ok(built_in) if !names_a_file => Ok(built_in),
        _ if names_a_file || path.is_file() => Ok(Reference::File(path)),
        unknown => unknown,
    }
}

fn built_in(name: &str) -> Result<Reference, String> {
    let names = || BUILT_IN.iter().map(|(name, _)| *name);
    BUILT_IN
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(name, text)| Reference::BuiltIn(name, text))
        .ok_or_else(|| {
            let list = names().collect::<Vec<_>>().join(", ");
            match nearest(name, names()) {
                Some(nearest) => {
                    format!("did you mean `{nearest}`? Built in are {list}; or name a .yaml file")
                }
                None => format!("built in are {list}; or name a .yaml file"),
            }
        })
}

fn read_file(path: &Path) -> Result<String, ProfileError> {
    let place = path.display().to_string();
    let unreadable = |error: std::io::Error| {
        let help = match error.kind() {
            std::io::ErrorKind::NotFound => {
                "check the path; a relative one is relative to the current directory, \
                                             one in `extends` to the extending file"
            }
            std::io::ErrorKind::InvalidData => "save the file as UTF-8 text",
            _ => "make the file readable",
        };
        ProfileError::new(&*place, format!("cannot read the profile: {error}"), help)
    };
    let mut text = String::new();
    let file = File::open(path).map_err(unreadable)?;
    file.take(MAX_FILE_BYTES + 1).read_to_string(&mut text).map_err(unreadable)?;
    if text.len() as u64 > MAX_FILE_BYTES {
        return Err(ProfileError::new(
            place,
            format!("the profile is larger than {MAX_FILE_BYTES} bytes"),
            "check that this is the file you meant",
        ));
    }
    Ok(text)
}

/// The flag that sets the key at `path`.
fn flag(path: &[&str]) -> String {
    let name = match path {
        ["criteria", ..] => "threshold",
        ["load", "think_time"] => "think",
        ["deploy", "api_threads"] => "threads",
        ["load", "stages"] => "stage",
        ["load", "agents", ..] => "agents",
        ["load", "request", "headers", ..] => "header",
        [.., key] => return format!("--{}", key.replace('_', "-")),
        [] => return "command line".to_owned(),
    };
    format!("--{name}")
}
