//! What an operator is told about a configuration that is wrong: pairs of a YAML file and the expected text.
//!
//! `NAME.yaml` is given to `check`; `NAME.run.yaml` is started, since `check` binds nothing. `BLESS=1 cargo test
//! diagnostics` writes the texts anew: read the difference before you commit it.

use crate::harness::{Pki, northgate};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};

#[tokio::test]
async fn every_mistake_has_its_message() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let cases: Vec<PathBuf> = super::conf::files(&root.join("tests/diagnostics"), "yaml")
        .into_iter()
        .filter(|path| {
            path.parent()
                .is_some_and(|folder| folder.ends_with("diagnostics"))
        })
        .collect();
    assert!(cases.len() > 20, "{} cases", cases.len());
    // what `address_in_use.run.yaml` wants to bind
    let taken = TcpListener::bind((Ipv4Addr::new(127, 77, 77, 77), 18077)).expect("a listener");
    let mut differences = Vec::new();
    for case in cases {
        let name = case
            .strip_prefix(root)
            .expect("inside")
            .display()
            .to_string();
        let command = if name.ends_with(".run.yaml") {
            "run"
        } else {
            "check"
        };
        // a relative path, so that the texts do not depend on where the repository is
        let output = northgate(&[command, "-c", &name]).await;
        let text = format!("exit {}\n{}", output.code.unwrap_or(-1), output.stderr);
        if output.code == Some(0) {
            differences.push(format!("=== {name} is taken as valid"));
            continue;
        }
        let expected = case.with_extension("txt");
        if std::env::var_os("BLESS").is_some() {
            std::fs::write(&expected, &text).expect("an expected text");
        }
        let wanted = std::fs::read_to_string(&expected).unwrap_or_default();
        if text != wanted {
            differences.push(format!(
                "=== {name}\n--- expected\n{wanted}\n--- got\n{text}"
            ));
        }
    }
    drop(taken);
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

#[tokio::test]
async fn a_configuration_without_mistakes_has_no_messages() {
    let dir = tempfile::tempdir().expect("a folder");
    let pki = Pki::new();
    pki.server(&["a.test"]).write(dir.path(), "a");
    let path = dir.path().join("northgate.yaml");
    let yaml = r#"
version: 1
listeners: {public: {address: 127.0.0.1:8443, tls: {}}}
certificates: {a: {cert: a.pem, key: a.key}}
services: {app: {endpoints: 127.0.0.1:9000}}
routes: {all: {match: {host: a.test, path: /**}, service: app}}
"#;
    std::fs::write(&path, yaml).expect("a file");
    let output = northgate(&["check", "-c", &path.display().to_string()]).await;
    assert_eq!(
        (output.code, output.stderr.as_str()),
        (Some(0), ""),
        "{output:?}"
    );
}

#[tokio::test]
async fn an_expired_certificate_is_a_warning_and_under_strict_an_error() {
    let dir = tempfile::tempdir().expect("a folder");
    Pki::new().expired("a.test").write(dir.path(), "a");
    let path = dir.path().join("northgate.yaml");
    let yaml = r#"
version: 1
listeners: {public: {address: 127.0.0.1:8443, tls: {}}}
certificates: {a: {cert: a.pem, key: a.key}}
routes: {all: {match: {host: a.test, path: /**}, respond: 204}}
"#;
    std::fs::write(&path, yaml).expect("a file");
    let path = path.display().to_string();
    let output = northgate(&["check", "-c", &path]).await;
    assert_eq!(output.code, Some(0), "{output:?}");
    assert!(
        output.stderr.contains("warning") && output.stderr.contains("expired"),
        "{output:?}"
    );
    let output = northgate(&["check", "--strict", "-c", &path]).await;
    assert_eq!(output.code, Some(78), "{output:?}");
}

#[tokio::test]
async fn wrong_arguments_are_exit_2_and_a_missing_file_is_78() {
    assert_eq!(northgate(&["chekc"]).await.code, Some(2));
    assert_eq!(
        northgate(&["check", "-c", "/nowhere/northgate.yaml"])
            .await
            .code,
        Some(78)
    );
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    use std::process::{Command, Stdio};
    // a pipe without a reader: what is written to it can't arrive
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let output = Command::new(env!("CARGO_BIN_EXE_northgate"))
        .arg("schema")
        .stdout(writer)
        .stderr(Stdio::piped())
        .output()
        .expect("the binary");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), &*said), (Some(0), ""));
}

#[test]
fn what_could_not_be_written_is_a_failure() {
    use std::process::{Command, Stdio};
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full");
    let output = Command::new(env!("CARGO_BIN_EXE_northgate"))
        .arg("schema")
        .stdout(full.expect("a device"))
        .stderr(Stdio::piped())
        .output()
        .expect("the binary");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("can't write to stdout"), "{said}");
}

#[tokio::test]
async fn asking_a_gateway_by_a_file_that_is_gone_says_so() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("gone.yaml").display().to_string();
    let output = northgate(&["status", "-c", &path]).await;
    let wanted = format!("{path} can't be read");
    assert!(
        output.stderr.contains(&wanted) && output.stderr.contains("--admin"),
        "{output:?}"
    );
}
