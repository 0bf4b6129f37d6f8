//! k8s/ is what is deployed: byte for byte, by its patches, and as kubectl's own kustomize sees it.

use std::path::Path;
use std::process::Command;

use super::super::kustomize::files;
use super::*;

/// The files below a directory that this program makes.
fn made_files(directory: &Path, below: &str, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(directory).into_iter().flatten() {
        let entry = entry.unwrap();
        let name = format!("{below}{}", entry.file_name().into_string().unwrap());
        if entry.file_type().unwrap().is_dir() {
            made_files(&entry.path(), &format!("{name}/"), found);
        } else if name.contains('/') && !name.ends_with("credentials.env") {
            found.insert(name);
        }
    }
}

#[test]
fn the_kustomize_files_are_what_is_deployed() {
    let root = repository().join("k8s");
    let made = files();
    let mut there = BTreeSet::new();
    made_files(&root, "", &mut there);
    if std::env::var_os("UPDATE_K8S").is_some() {
        for old in &there {
            fs::remove_file(root.join(old)).unwrap();
        }
        for (path, text) in &made {
            let file = root.join(path);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        }
        return;
    }
    let advice = "run UPDATE_K8S=1 cargo test -p scalekit kustomize";
    assert_eq!(there, made.keys().cloned().collect(), "{advice}");
    for (path, text) in made {
        assert_eq!(fs::read_to_string(root.join(&path)).unwrap(), text, "{path}: {advice}");
    }
}

/// Applies the patches of the overlays' files to the objects of the base's, as RFC 6902 has it.
#[test]
fn a_kustomize_overlay_makes_the_objects_of_its_profile() {
    let made = files();
    let base: Vec<Value> = made
        .iter()
        .filter(|(path, _)| path.starts_with("base/") && path.ends_with(".yaml") && !path.contains("kustom"))
        .flat_map(|(_, text)| documents(text))
        .collect();
    for (name, _, profile) in overlays() {
        let mut objects = base.clone();
        if let Some(added) = made.get(&format!("overlays/{name}/added.yaml")) {
            objects.extend(documents(added));
        }
        let overlay: Value =
            serde_yaml::from_str(&made[&format!("overlays/{name}/kustomization.yaml")]).unwrap();
        for patch in overlay["patches"].as_array().into_iter().flatten() {
            let target = objects
                .iter_mut()
                .find(|object| {
                    object["kind"] == patch["target"]["kind"]
                        && object["metadata"]["name"] == patch["target"]["name"]
                })
                .unwrap();
            let steps: json_patch::Patch = serde_yaml::from_str(patch["patch"].as_str().unwrap()).unwrap();
            json_patch::patch(target, &steps).unwrap();
        }
        let wanted = super::objects::without_secrets(&profile).unwrap();
        assert_eq!(objects.len(), wanted.len(), "{name}");
        for object in &wanted {
            assert!(objects.contains(&value(object)), "{name}: {:?}", key(object));
        }
    }
}

/// With kubectl's own kustomize, where this machine has one.
#[test]
fn kubectl_makes_the_same_objects_of_the_kustomize_files() {
    if Command::new("kubectl").args(["kustomize", "--help"]).output().is_err() {
        eprintln!("SKIPPED: there is no kubectl; that its kustomize takes k8s/ is NOT tested");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for (path, text) in files() {
        let file = folder.path().join(path);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, text).unwrap();
    }
    let kustomize = |name: &str| {
        let output = Command::new("kubectl").arg("kustomize").arg(folder.path().join(name)).output().unwrap();
        (output.status.success(), String::from_utf8(output.stdout).unwrap(), output.stderr)
    };
    let (passed, ..) = kustomize("base");
    assert!(!passed, "without passwords nothing is deployed");
    let script =
        || Command::new("sh").arg(folder.path().join("base/credentials.sh")).output().unwrap().status;
    assert!(script().success());
    let first = fs::read(folder.path().join("base/credentials.env")).unwrap();
    assert!(!script().success(), "passwords are made once");
    assert_eq!(fs::read(folder.path().join("base/credentials.env")).unwrap(), first);
    let mut profiles: Vec<_> =
        overlays().into_iter().map(|(name, _, profile)| (format!("overlays/{name}"), profile)).collect();
    profiles.push(("base".to_owned(), base_profile()));
    for (name, profile) in profiles {
        let (passed, text, stderr) = kustomize(&name);
        assert!(passed, "{name}: {}", String::from_utf8_lossy(&stderr));
        let made = documents(&text);
        let wanted = super::objects::without_secrets(&profile).unwrap();
        assert_eq!(made.len(), wanted.len() + 1, "{name}");
        for object in &wanted {
            assert!(made.contains(&value(object)), "{name}: {:?}", key(object));
        }
        let secret = made.iter().find(|object| object["kind"] == "Secret").unwrap();
        let mut secret = secret.clone();
        // kustomize breaks long lines of base64.
        for (_, text) in secret["data"].as_object_mut().unwrap() {
            *text = text.as_str().unwrap().replace('\n', "").into();
        }
        let secret: Secret = serde_json::from_value(secret).unwrap();
        assert_eq!(secret.metadata.name.as_deref(), Some(&*credentials_name(&profile)), "{name}");
        let labels = secret.metadata.labels.clone().unwrap();
        assert_eq!(labels[INSTANCE], "scalekit", "{name}");
        // The same keys as `scalekit deploy` makes, with URLs that hold the passwords.
        let made = Credentials::of(&secret).unwrap();
        let data = secret.data.unwrap();
        for (key, text) in super::objects::credentials(&profile, &made, &Servers::default()) {
            assert_eq!(String::from_utf8_lossy(&data[key].0), text, "{name}: {key}");
        }
    }
}
