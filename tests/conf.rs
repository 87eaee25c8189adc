//! What is shipped as an example must load.

use crate::harness::{Pki, northgate};
use std::path::{Path, PathBuf};

/// All files below a folder with this extension, in order.
pub fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten() {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(files(&path, extension));
        } else if path.extension().is_some_and(|own| own == extension) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Parts of a configuration (`conf.d/…`) are read by the file that includes them.
fn is_whole(path: &Path) -> bool {
    !path
        .components()
        .any(|part| part.as_os_str().to_string_lossy().ends_with(".d"))
}

#[tokio::test]
async fn every_example_passes_check_and_names_its_schema() {
    let conf = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf");
    let dir = tempfile::tempdir().expect("a folder");
    let pki = Pki::new();
    let examples: Vec<PathBuf> = files(&conf, "yaml");
    assert!(!examples.is_empty(), "no examples in {}", conf.display());
    for example in &examples {
        let text = std::fs::read_to_string(example).expect("an example");
        let schema = text.lines().next().unwrap_or_default();
        assert!(
            schema.starts_with("# yaml-language-server: $schema="),
            "{} begins with {schema:?}",
            example.display()
        );
        let copy = dir
            .path()
            .join(example.strip_prefix(&conf).expect("inside"));
        std::fs::create_dir_all(copy.parent().expect("a folder")).expect("a folder");
        // what an example expects to be installed stands beside its copy
        let text = text.replace("/etc/northgate", &dir.path().display().to_string());
        std::fs::write(&copy, &text).expect("a copy");
        install_certificates(&text, copy.parent().expect("a folder"), &pki);
        install_secrets(&text);
    }
    for extension in ["keys", "htpasswd", "list", "tokens"] {
        for file in files(&conf, extension) {
            let copy = dir.path().join(file.strip_prefix(&conf).expect("inside"));
            std::fs::create_dir_all(copy.parent().expect("a folder")).expect("a folder");
            std::fs::copy(&file, copy).expect("a copy");
        }
    }
    for example in examples.iter().filter(|path| is_whole(path)) {
        let copy = dir
            .path()
            .join(example.strip_prefix(&conf).expect("inside"));
        let output = northgate(&["check", "-c", &copy.display().to_string()]).await;
        assert_eq!(
            output.code,
            Some(0),
            "{}:\n{}",
            example.display(),
            output.stderr
        );
    }
}

/// Writes every secret that is read from a file which is not there yet.
fn install_secrets(text: &str) {
    let lines = text
        .lines()
        .filter(|line| !line.trim_start().starts_with('#'));
    for (_, rest) in lines.filter_map(|line| line.split_once("${file:")) {
        let path = Path::new(rest.split('}').next().unwrap_or(rest));
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        // no two keys may be the same
        let text = match path.ends_with("secrets/redis") {
            true => "redis://:password@127.0.0.1:6379\n".to_owned(),
            false => format!("0123456789abcdef of {}\n", path.display()),
        };
        std::fs::write(path, text).expect("a secret");
    }
}

/// Writes the certificate and the key of every `{cert: X, key: Y}` that is not there yet.
fn install_certificates(text: &str, folder: &Path, pki: &Pki) {
    let value = |line: &str, key: &str| {
        let rest = &line[line.find(&format!("{key}: "))? + key.len() + 2..];
        let end = rest.find([',', '}']).unwrap_or(rest.len());
        Some(rest[..end].trim().trim_matches('"').to_owned())
    };
    for line in text
        .lines()
        .filter(|line| !line.trim_start().starts_with('#'))
    {
        for (key, text) in [("client_ca", pki.pem()), ("crl", pki.revoking(&[1], 2090))] {
            let Some(named) = value(line, key).filter(|named| !named.contains('{')) else {
                continue;
            };
            let path = folder.join(named);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
            std::fs::write(path, text).expect("a PEM file");
        }
        // in its long form
        let long = value(line, "client_ca").and_then(|_| value(line, "file"));
        if let Some(authority) = long.or_else(|| value(&line.replace("client_ca: ", ""), "ca")) {
            let path = folder.join(authority);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
            std::fs::write(path, pki.pem()).expect("a PEM file");
        }
        if let Some(certificates) = value(line, "dir") {
            let live = folder.join(certificates).join("live.example.com");
            std::fs::create_dir_all(&live).expect("a folder");
            let identity = pki.server(&["live.example.com"]);
            for (name, pem) in [
                ("fullchain.pem", &identity.certificate),
                ("privkey.pem", &identity.key),
            ] {
                std::fs::write(live.join(name), pem).expect("a PEM file");
            }
        }
        let (Some(cert), Some(key)) = (value(line, "cert"), value(line, "key")) else {
            continue;
        };
        let stem = Path::new(&cert).file_stem().unwrap_or_default();
        let own = format!("{}.example.com", stem.display());
        let identity = match own.as_str() {
            "example.example.com" => pki.server(&["example.com", "*.example.com"]),
            own => pki.server(&[own]),
        };
        for (name, pem) in [(cert, &identity.certificate), (key, &identity.key)] {
            let path = folder.join(name);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
            std::fs::write(path, pem).expect("a PEM file");
        }
    }
}
