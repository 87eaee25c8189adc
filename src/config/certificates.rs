//! Certificates of listeners: two files, or a folder of them.
//!
//! In a folder a certificate is `NAME.pem` or `NAME.crt`, with its key in `NAME.key` beside it, or in the same file. Where
//! there is a `fullchain.pem` with a `privkey.pem`, as certbot leaves them, or a `tls.crt` with a `tls.key`, as Kubernetes
//! mounts them, what else belongs to them is left alone. Folders in the folder are looked into the same way, those in
//! these are not. Names that begin with a dot are nobody's, and other files neither.

use super::model::ClientCa;
use crate::units::{CertificateFolder, FileText, Invalid, Spanned};
use schemars::JsonSchema;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, Error, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// The most certificates in one folder.
const CERTIFICATES_MAX: usize = 10_000;

/// The most names in one folder: a chain, a key, and something else for each certificate.
const NAMES_MAX: usize = 3 * CERTIFICATES_MAX;

/// The largest file of a folder: a chain has a few kilobytes.
pub(super) const FILE_BYTES_MAX: u64 = 1 << 20;

/// The size of all files of a folder together.
pub(super) const BYTES_MAX: u64 = 256 << 20;

/// What certbot and Kubernetes put into a folder: the chain, its key, and files that are no certificates of ours.
const LAYOUTS: [(&str, &str, &[&str]); 2] = [
    (
        "fullchain.pem",
        "privkey.pem",
        &["cert.pem", "chain.pem", "privkey.pem"],
    ),
    ("tls.crt", "tls.key", &["ca.crt"]),
];

/// A certificate of listeners: `cert` and `key`, or `dir`.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ServerCertificate {
    /// The chain, the server's certificate first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cert: Option<Spanned<FileText>>,
    /// The private key (PKCS#8, PKCS#1 or SEC1).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<Spanned<FileText>>,
    /// Instead of both: a folder with many certificates and their keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dir: Option<Spanned<CertificateFolder>>,
    /// Whose certificates clients of these names may show, instead of the listener's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_ca: Option<Spanned<ClientCa>>,
}

/// What it says, before it is known whether that goes together.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    #[serde(default)]
    cert: Option<Spanned<FileText>>,
    #[serde(default)]
    key: Option<Spanned<FileText>>,
    #[serde(default)]
    dir: Option<Spanned<CertificateFolder>>,
    #[serde(default)]
    client_ca: Option<Spanned<ClientCa>>,
}

impl<'de> Deserialize<'de> for ServerCertificate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Whole;

        impl<'de> Visitor<'de> for Whole {
            type Value = ServerCertificate;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`{cert: …, key: …}` or `{dir: …}`")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<ServerCertificate, A::Error> {
                let fields = Fields::deserialize(MapAccessDeserializer::new(map))?;
                match (&fields.cert, &fields.key, &fields.dir) {
                    (Some(_), Some(_), None) | (None, None, Some(_)) => {}
                    (Some(_), None, None) => return Err(A::Error::missing_field("key")),
                    (None, Some(_), None) => return Err(A::Error::missing_field("cert")),
                    (None, None, None) => {
                        let nothing = Invalid::new("neither `cert` and `key` nor `dir` is written");
                        return Err(A::Error::custom(nothing));
                    }
                    (_, _, Some(_)) => {
                        let both = Invalid::new("`dir` stands instead of `cert` and `key`")
                            .hint("write an entry for each");
                        return Err(A::Error::custom(both));
                    }
                }
                Ok(ServerCertificate {
                    cert: fields.cert,
                    key: fields.key,
                    dir: fields.dir,
                    client_ca: fields.client_ca,
                })
            }
        }

        const FIELDS: &[&str] = &["cert", "key", "dir", "client_ca"];
        deserializer.deserialize_struct("ServerCertificate", FIELDS, Whole)
    }
}

/// A certificate in a folder, and where its key is.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Pair {
    /// The path of the chain below the folder.
    pub name: String,
    pub chain: PathBuf,
    /// The same as the chain where one file holds both.
    pub key: PathBuf,
}

/// What makes a folder unusable.
pub(super) struct Unusable {
    pub at: PathBuf,
    pub why: Invalid,
}

/// The certificates in a folder, by name. Adds the folders that were looked into, also where that fails.
pub(super) fn find(folder: &Path, looked: &mut Vec<PathBuf>) -> Result<Vec<Pair>, Unusable> {
    let top = list(folder, looked)?;
    let mut pairs = pairs(folder, "", &top.files)?;
    for name in &top.folders {
        let below = folder.join(name);
        let inside = list(&below, looked)?;
        pairs.extend(self::pairs(&below, &format!("{name}/"), &inside.files)?);
        if pairs.len() > CERTIFICATES_MAX {
            break;
        }
    }
    let shown = folder.display();
    let why = match pairs.len() {
        0 => Invalid::new(format!("there is no certificate in `{shown}`")).hint(
            "`NAME.pem` or `NAME.crt`, with `NAME.key` beside it or its key in the same file",
        ),
        1..=CERTIFICATES_MAX => return Ok(pairs),
        _ => Invalid::new(format!(
            "there are more than {CERTIFICATES_MAX} certificates in `{shown}`"
        ))
        .hint("spread them over several folders, each in an entry of its own"),
    };
    let at = folder.to_owned();
    Err(Unusable { at, why })
}

/// The names in a folder, sorted.
#[derive(Default)]
struct Listed {
    files: BTreeSet<String>,
    folders: BTreeSet<String>,
}

fn list(folder: &Path, looked: &mut Vec<PathBuf>) -> Result<Listed, Unusable> {
    looked.push(folder.to_owned());
    let unusable = |why: String| Unusable {
        at: folder.to_owned(),
        why: Invalid::new(why),
    };
    let unreadable = |error: io::Error| {
        let reason = match error.kind() {
            io::ErrorKind::NotFound => "there is no such folder".to_owned(),
            io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
            io::ErrorKind::NotADirectory => "it is not a folder".to_owned(),
            _ => error.to_string(),
        };
        unusable(format!("can't read `{}`: {reason}", folder.display()))
    };
    // `read_dir("")` fails, where an empty path means this folder
    let here = match folder.as_os_str().is_empty() {
        true => Path::new("."),
        false => folder,
    };
    let mut listed = Listed::default();
    for entry in std::fs::read_dir(here).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        // what has another name is none of those that are looked for
        let Some(name) = entry.file_name().to_str().map(str::to_owned) else {
            continue;
        };
        if name.starts_with('.') {
            continue;
        }
        if listed.files.len() + listed.folders.len() == NAMES_MAX {
            let shown = folder.display();
            return Err(unusable(format!(
                "there are more than {NAMES_MAX} names in `{shown}`"
            )));
        }
        // a link counts as what it leads to
        let is_folder = match entry.file_type() {
            Ok(kind) if !kind.is_symlink() => kind.is_dir(),
            _ => entry.path().is_dir(),
        };
        match is_folder {
            true => listed.folders.insert(name),
            false => listed.files.insert(name),
        };
    }
    Ok(listed)
}

/// The certificates among these files.
fn pairs(folder: &Path, prefix: &str, names: &BTreeSet<String>) -> Result<Vec<Pair>, Unusable> {
    let here = LAYOUTS
        .iter()
        .filter(|(chain, key, _)| names.contains(*chain) && names.contains(*key));
    let layouts: Vec<_> = here.collect();
    let mut pairs = Vec::new();
    for name in names {
        let Some((stem, extension)) = name.rsplit_once('.') else {
            continue;
        };
        if layouts.iter().any(|(_, _, rest)| rest.contains(&&**name)) {
            continue;
        }
        let beside = format!("{stem}.key");
        let layout = layouts.iter().find(|(chain, ..)| chain == name);
        let key = match layout {
            Some((_, key, _)) => *key,
            None if names.contains(&beside) => &beside,
            None => name,
        };
        match extension {
            "pem" | "crt" => pairs.push(Pair {
                name: format!("{prefix}{name}"),
                chain: folder.join(name),
                key: folder.join(key),
            }),
            "key" => {
                let has = |extension| names.contains(&format!("{stem}.{extension}"));
                if !has("pem") && !has("crt") {
                    let at = folder.join(name);
                    let shown = at.display();
                    let why = Invalid::new(format!("`{shown}` has no certificate beside it"))
                        .hint(format!("`{stem}.pem` or `{stem}.crt`"));
                    return Err(Unusable { at, why });
                }
            }
            _ => {}
        }
    }
    Ok(pairs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for file in files {
            let path = folder.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        folder
    }

    /// Chains and keys below the folder, or why it can't be used.
    fn found(folder: &Path) -> Result<Vec<(String, String)>, String> {
        let below = |path: &Path| {
            let path = path.strip_prefix(folder).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let pairs = find(folder, &mut Vec::new());
        let pairs = pairs.map_err(|unusable| {
            let shown = format!("{}/", folder.display());
            unusable.why.message.replace(&shown, "")
        })?;
        assert!(pairs.iter().all(|pair| pair.name == below(&pair.chain)));
        let both = pairs
            .iter()
            .map(|pair| (below(&pair.chain), below(&pair.key)));
        Ok(both.collect())
    }

    fn pair(chain: &str, key: &str) -> (String, String) {
        (chain.to_owned(), key.to_owned())
    }

    #[test]
    fn a_key_stands_beside_its_certificate_or_in_it() {
        let folder = folder(&[
            "b.crt", "b.key", "a.pem", "a.key", "both.pem", "README", ".c.pem", "x.csr",
        ]);
        let expected = [
            pair("a.pem", "a.key"),
            pair("b.crt", "b.key"),
            pair("both.pem", "both.pem"),
        ];
        assert_eq!(found(folder.path()).unwrap(), expected);
    }

    #[test]
    fn what_certbot_and_kubernetes_leave_is_understood_in_a_folder_and_in_those_below() {
        let certbot = [
            "cert.pem",
            "chain.pem",
            "fullchain.pem",
            "privkey.pem",
            "README",
        ];
        let names = certbot.map(|name| format!("a.test/{name}"));
        let mut all: Vec<&str> = names.iter().map(String::as_str).collect();
        all.extend([
            "README",
            "b/tls.crt",
            "b/tls.key",
            "b/ca.crt",
            "b/c/deep.pem",
            "b/..data/tls.crt",
        ]);
        let below = folder(&all);
        let expected = [
            pair("a.test/fullchain.pem", "a.test/privkey.pem"),
            pair("b/tls.crt", "b/tls.key"),
        ];
        assert_eq!(found(below.path()).unwrap(), expected);
        let one = found(&below.path().join("a.test")).unwrap();
        assert_eq!(one, [pair("fullchain.pem", "privkey.pem")]);
    }

    #[test]
    fn links_count_as_what_they_lead_to() {
        let folder = folder(&[
            "archive/a/chain.pem",
            "archive/a/key.key",
            "archive/a/key.pem",
        ]);
        let live = folder.path().join("live");
        std::fs::create_dir(&live).unwrap();
        std::os::unix::fs::symlink("../archive/a", live.join("a")).unwrap();
        std::os::unix::fs::symlink("nowhere.pem", live.join("b.pem")).unwrap();
        let expected = [
            pair("b.pem", "b.pem"),
            pair("a/chain.pem", "a/chain.pem"),
            pair("a/key.pem", "a/key.key"),
        ];
        assert_eq!(
            found(&live).unwrap(),
            expected,
            "one that leads nowhere is not left out"
        );
    }

    #[test]
    fn what_is_unusable_says_why_and_is_watched() {
        let lone = folder(&["a.pem", "a.key", "b.key"]);
        assert_eq!(
            found(lone.path()),
            Err("`b.key` has no certificate beside it".to_owned())
        );
        let empty = folder(&["README"]);
        assert!(
            found(empty.path())
                .unwrap_err()
                .starts_with("there is no certificate in")
        );
        let missing = empty.path().join("missing");
        let mut looked = Vec::new();
        let unusable = find(&missing, &mut looked).err().unwrap();
        assert!(unusable.why.message.ends_with("there is no such folder"));
        assert_eq!((unusable.at, looked), (missing.clone(), vec![missing]));
        let file = find(&lone.path().join("a.pem"), &mut Vec::new())
            .err()
            .unwrap();
        assert!(file.why.message.ends_with("it is not a folder"));
    }
}
