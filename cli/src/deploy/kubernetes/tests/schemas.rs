//! The API's own schemas.

use std::process::Command;

use super::*;

/// The API's own schemas, strictly, of the newest minor versions that `kubernetes-validate` ships; `./test` installs it.
#[test]
fn the_objects_fit_the_schemas_of_the_newest_versions() {
    let python = repository().join("target/venv/bin/python");
    let has_it = Command::new(&python).args(["-c", "import kubernetes_validate"]).output();
    if !has_it.is_ok_and(|output| output.status.success()) {
        eprintln!("SKIPPED: no kubernetes-validate in target/venv; the schemas are NOT tested");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut count = 0;
    for (variant, profile) in variants() {
        // Kubernetes has no schema for other people's kinds.
        for object in all(&profile).iter().filter(|object| !wants_kind(object)) {
            let file = folder.path().join(format!("{count:03}.yaml"));
            fs::write(file, format!("# {variant}\n{}", render::document(object).unwrap())).unwrap();
            count += 1;
        }
    }
    let broken = folder.path().join("broken.yaml");
    fs::write(&broken, "apiVersion: v1\nkind: Service\nmetadata: {name: s}\nspec: {ports: [{porto: 1}]}\n")
        .unwrap();
    // PyYAML reads YAML 1.1, as kubectl does.
    let script = r#"
import glob, sys, yaml, kubernetes_validate as kv
versions = sorted({tuple(map(int, v.split('.')[:2])) for v in kv.utils.all_versions()})[-3:]
checked = 0
for version in ['%d.%d' % v for v in versions]:
    for name in sorted(glob.glob(sys.argv[1] + '/*.yaml')):
        document = yaml.safe_load(open(name))
        try:
            kv.validate(document, version, strict=True)
        except kv.ValidationError as error:
            if name.endswith('broken.yaml'):
                checked += 1
                continue
            sys.exit('%s %s %s: %s' % (version, document['kind'], document['metadata']['name'], error))
        if name.endswith('broken.yaml'):
            sys.exit('a broken object passed')
        checked += 1
print(len(versions), checked)
"#;
    let output = Command::new(&python).args(["-c", script]).arg(folder.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(said.trim(), format!("3 {}", 3 * (count + 1)));
}
