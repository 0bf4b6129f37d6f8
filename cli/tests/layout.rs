//! The walls of the layout, as ARCHITECTURE.md names them: which part may know which. Sources are read as text;
//! a path counts wherever it stands, in a `use` or in the middle of an expression, in a test or not.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};

/// A part, and what it must not reach. A part is a path of modules from the crate's root.
struct Wall {
    krate: &'static str,
    part: &'static str,
    /// Modules below the root, or other crates; `*`: every sibling that is not in `but`.
    never: &'static [&'static str],
    /// What it may reach all the same.
    but: &'static [&'static str],
    /// Files (below the crate's `src`) that the wall does not hold for, each with the reason.
    except: &'static [(&'static str, &'static str)],
}

const WALLS: &[Wall] = &[
    // The two share plain types, and nothing else: facts do not depend on where they come from.
    Wall { krate: "cli", part: "criteria", never: &["*"], but: &["report::model"], except: &[] },
    Wall {
        krate: "cli",
        part: "report::model",
        never: &["*"],
        but: &["criteria", "report::distribution"],
        except: &[],
    },
    Wall { krate: "cli", part: "profile", never: &["*"], but: &[], except: &[] },
    Wall {
        krate: "cli",
        part: "host",
        never: &["deploy", "load", "backends", "checkup"],
        but: &[],
        except: &[],
    },
    // Counters of servers go into the host's form of a series.
    Wall { krate: "cli", part: "backends", never: &["*"], but: &["host::counters"], except: &[] },
    // Judges plain facts, whoever gathered them.
    Wall {
        krate: "cli",
        part: "checkup",
        never: &["*"],
        but: &["host::counters", "host::findings", "backends", "cgroup_path"],
        except: &[],
    },
    Wall { krate: "cli", part: "deploy", never: &["host", "load"], but: &[], except: &[] },
    Wall {
        krate: "cli",
        part: "load",
        never: &["host", "deploy", "report", "criteria", "agent"],
        but: &[],
        except: &[],
    },
    // Carries plans and recordings about; what they are for is not its business.
    Wall { krate: "cli", part: "agent", never: &["*"], but: &["load"], except: &[] },
    Wall {
        krate: "service",
        part: "api",
        never: &["store", ".store"],
        but: &[],
        except: &[
            ("api/read.rs", "the read-through path"),
            ("api/read/tests.rs", "the read-through path's tests"),
            ("api/mod.rs", "wiring: holds what the routes are given"),
            ("api/rest.rs", "stores into atomics; it knows no database"),
            ("api/stats.rs", "the store's own counters"),
            ("api/routes.rs", "the audit asks the store itself, past every cache"),
        ],
    },
    Wall { krate: "service", part: "worker", never: &["axum", "hyper", "api"], but: &[], except: &[] },
    Wall { krate: "service", part: "journal", never: &["store"], but: &[], except: &[] },
    // The binary uses it, too. Its tests have processes in a group of their own.
    Wall { krate: "service", part: "device_io", never: &["*"], but: &["testing"], except: &[] },
    Wall { krate: "service", part: "store", never: &["journal"], but: &[], except: &[] },
];

/// A path in a source: `["crate", …]` resolved to the root, or a crate, or `.field`.
#[derive(Debug, PartialEq, Eq)]
struct Reference {
    line: usize,
    /// Whether it leads into the same crate.
    local: bool,
    path: Vec<String>,
}

/// Replaces comments, strings and character literals with blanks; lines stay where they are.
fn code_of(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut code = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        let rest = &chars[at..];
        let length = match rest {
            ['/', '/', ..] => rest.iter().position(|c| *c == '\n').unwrap_or(rest.len()),
            ['/', '*', ..] => find(rest, 2, &['*', '/']),
            ['r', '"' | '#', ..] if !code.ends_with(|c: char| c.is_alphanumeric() || c == '_') => {
                let hashes = rest[1..].iter().take_while(|c| **c == '#').count();
                if rest.get(1 + hashes) == Some(&'"') {
                    let end: Vec<char> =
                        std::iter::once('"').chain(std::iter::repeat_n('#', hashes)).collect();
                    find(rest, 2 + hashes, &end)
                } else {
                    0
                }
            }
            ['"', ..] => {
                let mut end = 1;
                while rest.get(end).is_some_and(|c| *c != '"') {
                    end += if rest[end] == '\\' { 2 } else { 1 };
                }
                (end + 1).min(rest.len())
            }
            ['\'', '\\', ..] => find(rest, 3, &['\'']),
            ['\'', _, '\'', ..] => 3,
            _ => 0,
        };
        if length == 0 {
            code.push(chars[at]);
            at += 1;
        } else {
            code.extend(rest[..length].iter().map(|c| if *c == '\n' { '\n' } else { ' ' }));
            at += length;
        }
    }
    code
}

/// Length up to and with the first `end` from `from` on.
fn find(text: &[char], from: usize, end: &[char]) -> usize {
    (from..text.len()).find(|at| text[*at..].starts_with(end)).map_or(text.len(), |at| at + end.len())
}

/// Words, `::` and single characters, each with its line.
fn tokens(code: &str) -> Vec<(usize, String)> {
    let mut tokens: Vec<(usize, String)> = Vec::new();
    for (line, text) in code.lines().enumerate() {
        let mut rest = text.trim_start();
        while let Some(first) = rest.chars().next() {
            let is_word = |c: char| c.is_alphanumeric() || c == '_';
            let length = match first {
                _ if is_word(first) => rest.find(|c| !is_word(c)).unwrap_or(rest.len()),
                ':' if rest.starts_with("::") => 2,
                _ => first.len_utf8(),
            };
            tokens.push((line + 1, rest[..length].to_owned()));
            rest = rest[length..].trim_start();
        }
    }
    tokens
}

/// Every path of a source whose module is `module`.
fn references(module: &[String], text: &str) -> Vec<Reference> {
    let tokens = tokens(&code_of(text));
    let word = |at: usize| tokens.get(at).map_or("", |(_, word)| word.as_str());
    let mut found = Vec::new();
    // The modules around the place, and for each open brace whether it opened one.
    let (mut module, mut braces) = (module.to_vec(), Vec::new());
    let mut at = 0;
    while at < tokens.len() {
        let line = tokens[at].0;
        match word(at) {
            "{" => {
                let opens = at >= 2 && word(at - 2) == "mod";
                if opens {
                    module.push(word(at - 1).to_owned());
                }
                braces.push(opens);
            }
            "}" => {
                let closes_module = braces.pop() == Some(true);
                module.truncate(module.len() - usize::from(closes_module));
            }
            "." if word(at + 1).starts_with(char::is_alphabetic) => {
                found.push(Reference { line, local: true, path: vec![format!(".{}", word(at + 1))] });
            }
            first
                if first.starts_with(|c: char| c.is_alphabetic() || c == '_')
                    && (word(at + 1) == "::" || at > 0 && word(at - 1) == "use")
                    && (at == 0 || word(at - 1) != "::") =>
            {
                let mut leaves = Vec::new();
                at = tree(&tokens, at, &mut Vec::new(), &mut leaves) - 1;
                found.extend(leaves.into_iter().map(|path| resolve(line, &module, &path)));
            }
            _ => {}
        }
        at += 1;
    }
    found
}

/// Reads a path, or a tree of paths in braces; gives the place after it.
fn tree(
    tokens: &[(usize, String)],
    mut at: usize,
    prefix: &mut Vec<String>,
    leaves: &mut Vec<Vec<String>>,
) -> usize {
    let word = |at: usize| tokens.get(at).map_or("", |(_, word)| word.as_str());
    let depth = prefix.len();
    loop {
        if word(at) == "{" {
            at += 1;
            while !matches!(word(at), "}" | "") {
                at = if word(at) == "," { at + 1 } else { tree(tokens, at, prefix, leaves) };
            }
            at += 1;
            break;
        }
        prefix.push(word(at).to_owned());
        at += 1;
        if word(at) != "::" || !(word(at + 1) == "{" || word(at + 1).starts_with(is_path_start)) {
            if word(at) == "as" {
                at += 2;
            }
            leaves.push(prefix.clone());
            break;
        }
        at += 1;
    }
    prefix.truncate(depth);
    // At least one token is taken, whatever stands there.
    at
}

fn is_path_start(c: char) -> bool {
    c.is_alphabetic() || matches!(c, '_' | '*')
}

fn resolve(line: usize, module: &[String], path: &[String]) -> Reference {
    let mut resolved: Vec<String> = match path[0].as_str() {
        "crate" => Vec::new(),
        "self" | "super" => module.to_vec(),
        _ => return Reference { line, local: false, path: path.to_vec() },
    };
    for segment in path.iter().skip_while(|segment| *segment == "crate") {
        match segment.as_str() {
            "super" => drop(resolved.pop()),
            "self" => {}
            name => resolved.push(name.to_owned()),
        }
    }
    Reference { line, local: true, path: resolved }
}

fn starts_with(path: &[String], part: &str) -> bool {
    part.split("::").enumerate().all(|(place, name)| path.get(place).is_some_and(|found| found == name))
}

/// The module of a file below `src`.
fn module_of(file: &str) -> Vec<String> {
    let path = file.trim_end_matches(".rs").trim_end_matches("/mod");
    if matches!(path, "main" | "lib") { Vec::new() } else { path.split('/').map(str::to_owned).collect() }
}

/// Breaches in one file, `file` being its path below the crate's `src`. `siblings` are the crate's top modules.
fn breaches(krate: &str, file: &str, text: &str, siblings: &[String]) -> Vec<String> {
    let module = module_of(file);
    let references = references(&module, text);
    let mut breaches = Vec::new();
    for wall in WALLS.iter().filter(|wall| wall.krate == krate && starts_with(&module, wall.part)) {
        if wall.except.iter().any(|(excepted, _)| *excepted == file) {
            continue;
        }
        for reference in &references {
            let path = &reference.path;
            let forbidden = wall.never.iter().any(|never| match *never {
                "*" => reference.local && siblings.contains(&path.first().cloned().unwrap_or_default()),
                never => starts_with(path, never),
            });
            let allowed = starts_with(path, wall.part) || wall.but.iter().any(|but| starts_with(path, but));
            if forbidden && !allowed {
                breaches.push(format!(
                    "{krate}/src/{file}:{}: {} reaches {}",
                    reference.line,
                    wall.part,
                    path.join("::")
                ));
            }
        }
    }
    breaches.extend(conventions(krate, file, text));
    breaches
}

/// What holds for each file, whatever its part.
fn conventions(krate: &str, file: &str, text: &str) -> Vec<String> {
    let mut breaches = Vec::new();
    let mut breach = |line: usize, what: &str| breaches.push(format!("{krate}/src/{file}:{line}: {what}"));
    if !text.starts_with("//!") {
        breach(1, "a file says at its top what it is for (`//!`)");
    }
    let lines: Vec<&str> = text.lines().collect();
    // Files of tests print what they measured.
    let prints = krate == "cli" && (file.starts_with("commands/") || file == "main.rs");
    let is_test = file.ends_with("tests.rs") || file.contains("/tests/");
    for (line, code) in code_of(text).lines().enumerate() {
        let has = |word: &str| code.replace(' ', "").contains(word);
        if has("process::exit") && file != "main.rs" {
            breach(line + 1, "only main.rs ends the process");
        }
        if (has("println!") || has("print!")) && !prints && !is_test {
            breach(line + 1, "only the commands print");
        }
        let is_unsafe = code.split(|c: char| !(c.is_alphanumeric() || c == '_')).any(|word| word == "unsafe");
        let explained = lines[line.saturating_sub(3)..=line].iter().any(|line| line.contains("// SAFETY:"));
        if is_unsafe && !explained {
            breach(line + 1, "unsafe without a `// SAFETY:` comment");
        }
    }
    breaches
}

fn sources(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(sources(&path));
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            files.push(path);
        }
    }
    files
}

#[test]
fn the_walls_stand() {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut found = Vec::new();
    for krate in ["cli", "service"] {
        let src = workspace.join(krate).join("src");
        let files = sources(&src);
        let names: Vec<&str> =
            files.iter().map(|file| file.strip_prefix(&src).unwrap().to_str().unwrap()).collect();
        let mut siblings: Vec<String> =
            names.iter().filter_map(|name| module_of(name).first().cloned()).collect();
        siblings.sort();
        siblings.dedup();
        assert!(siblings.len() > 5, "the sources of {krate} were found: {siblings:?}");
        for wall in WALLS.iter().filter(|wall| wall.krate == krate) {
            for (file, reason) in wall.except {
                assert!(
                    names.contains(file) && !reason.is_empty(),
                    "{file} is an exception, and does not exist"
                );
            }
        }
        for (file, name) in files.iter().zip(&names) {
            found.extend(breaches(krate, name, &fs::read_to_string(file).unwrap(), &siblings));
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

/// Snippets, each with what is wrong with it.
#[test]
fn a_breach_is_found() {
    let siblings: Vec<String> = ["criteria", "report", "profile", "load", "deploy", "host", "audit", "store"]
        .into_iter()
        .chain(["journal", "api", "worker"])
        .map(str::to_owned)
        .collect();
    for (krate, file, code, expected) in [
        (
            "cli",
            "criteria/judge.rs",
            "use crate::profile::Profile;",
            Some("criteria reaches profile::Profile"),
        ),
        ("cli", "criteria/mod.rs", "use super::report::text;", Some("criteria reaches report::text")),
        ("cli", "criteria/mod.rs", "use crate::report::model::Report;", None),
        ("cli", "criteria/judge.rs", "use super::grammar::Criterion;", None),
        ("cli", "report/model.rs", "use crate::{criteria::Kind, load::Recording};", Some("load::Recording")),
        (
            "cli",
            "report/model.rs",
            "use super::text::text;",
            Some("report::model reaches report::text::text"),
        ),
        ("cli", "report/text.rs", "use crate::load::Tick;", None),
        (
            "cli",
            "profile/units.rs",
            "fn f() { crate::exit::x(); crate::load::run() }",
            Some(":2: profile reaches load"),
        ),
        ("cli", "load/engine.rs", "use super::super::deploy::up;", Some("load reaches deploy::up")),
        ("cli", "load/engine.rs", "mod tests { use super::super::pacer; }", None),
        (
            "cli",
            "load/engine.rs",
            "mod tests { use super::super::super::report; }",
            Some("load reaches report"),
        ),
        (
            "cli",
            "load/engine.rs",
            "// use crate::report::Report;\nconst A: &str = \"crate::report::x\";",
            None,
        ),
        ("cli", "deploy/local.rs", "type A = Vec<crate::load::Plan>;", Some("deploy reaches load::Plan")),
        ("service", "api/accept.rs", "use crate::store::Store;", Some("api reaches store::Store")),
        ("service", "api/accept.rs", "fn f(app: &App) { app.store.read(); }", Some("api reaches .store")),
        ("service", "api/read.rs", "use crate::store::Store;", None),
        ("service", "worker/mod.rs", "use axum::Router;", Some("worker reaches axum::Router")),
        ("service", "worker/mod.rs", "use axum;", Some("worker reaches axum")),
        (
            "service",
            "journal/redis/mod.rs",
            "use crate::store::{Store, StoreError};",
            Some("store::StoreError"),
        ),
        ("service", "store/mongo.rs", "pub use crate::journal::Journal as J;", Some("store reaches journal")),
        ("cli", "audit.rs", "fn f() { std::process::exit(1) }", Some("only main.rs ends")),
        ("cli", "main.rs", "fn f() { std::process::exit(1) }", None),
        ("cli", "audit.rs", "fn f() { eprintln!(\"x\") }", Some("only the commands print")),
        ("cli", "commands/run.rs", "fn f() { eprintln!(\"x\") }", None),
        ("service", "serve.rs", "fn f() { unsafe { g() } }", Some(":2: unsafe without")),
        ("service", "serve.rs", "// SAFETY: g is safe.\nfn f() { unsafe { g() } }", None),
        (
            "service",
            "serve.rs",
            "const A: char = '\"'; // unsafe\nfn f<'a>(x: &'a str) -> char { '\\'' }",
            None,
        ),
        (
            "service",
            "serve.rs",
            "const A: &str = r#\"\"unsafe\"#; fn f() { unsafe {} }",
            Some("unsafe without"),
        ),
    ] {
        let found = breaches(krate, file, &format!("//! x\n{code}"), &siblings);
        match expected {
            None => assert!(found.is_empty(), "{code}: {found:?}"),
            Some(words) => assert!(found.iter().any(|breach| breach.contains(words)), "{code}: {found:?}"),
        }
    }
    assert_eq!(breaches("cli", "audit.rs", "fn f() {}", &siblings).len(), 1, "no purpose at the top");
}
