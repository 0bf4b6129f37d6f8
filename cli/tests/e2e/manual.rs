//! What the program says about itself, and how it says anything.

use std::fs;

use crate::sandbox::Sandbox;
use crate::web::WebServer;

#[test]
fn help_version_and_usage() {
    let sandbox = Sandbox::new();
    let help = sandbox.scalekit(&["--help"]).expect(0).stdout;
    for status in ["0 passed", "1 failed to run", "2 usage", "99 ", "104 ", "105 ", "120 ", "121 ", "122 "] {
        assert!(help.contains(status), "{status}: {help}");
    }
    let version = sandbox.scalekit(&["--version"]).expect(0).stdout;
    assert_eq!(version, format!("scalekit {}\n", env!("CARGO_PKG_VERSION")));
    for usage in [&["bench", "--vus", "many"][..], &["frobnicate"], &["run", "--no-such-flag"], &[]] {
        let output = sandbox.scalekit(usage).expect(2);
        assert!(output.stderr.contains("--help"), "{}", output.stderr);
    }
}

#[test]
fn completions_of_each_shell() {
    let sandbox = Sandbox::new();
    for shell in ["bash", "zsh", "fish"] {
        let script = sandbox.scalekit(&["completions", shell]).expect(0).stdout;
        assert!(script.contains("bench") && script.contains("threshold"), "{shell}");
    }
}

#[test]
fn manual_pages_of_each_command() {
    let sandbox = Sandbox::new();
    sandbox.scalekit(&["man", "pages/deep"]).expect(0);
    for page in [
        "scalekit",
        "scalekit-run",
        "scalekit-bench",
        "scalekit-deploy",
        "scalekit-validate",
        "scalekit-report",
    ] {
        let text = fs::read_to_string(sandbox.path("pages/deep").join(format!("{page}.1"))).unwrap();
        assert!(text.contains(".TH"), "{page}");
    }
    fs::write(sandbox.path("file"), "").unwrap();
    sandbox.scalekit(&["man", "file/pages"]).expect(1).says(&["file/pages"]);
}

#[test]
fn without_a_terminal_output_is_plain() {
    let (sandbox, server) = (Sandbox::new(), WebServer::start("200 OK"));
    let profile = sandbox.profile("plain", "");
    let bench = ["bench", "-p", &profile, "--url", &server.url, "--vus", "2", "--duration", "1s"];
    for (flags, no_color, colored) in [
        (&[][..], "", false),
        (&[], "1", false),
        (&["--color", "never"], "", false),
        (&["--color", "always"], "1", true),
    ] {
        let mut command = sandbox.command(&[&bench[..], flags].concat());
        command.env("NO_COLOR", no_color);
        let output = sandbox.run(command).expect(0).says(&["measuring", "requests/s"]);
        assert!(!output.stderr.contains('\u{1b}') && !output.stderr.contains('\r'), "{}", output.stderr);
        assert_eq!(output.stdout.contains('\u{1b}'), colored, "{flags:?}: {}", output.stdout);
    }
    for folder in sandbox.folders() {
        assert!(!fs::read_to_string(folder.join("summary.txt")).unwrap().contains('\u{1b}'));
    }
}
