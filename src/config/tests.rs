//! Whole files: what `conf/` ships, includes, fingerprints, the schema. `tests/diagnostics` has the refusals.

use super::{Config, Environment, Failure, Loaded, load_in, schema};
use crate::diagnostic::Colour;
use std::path::{Path, PathBuf};

/// Loads without an environment, so that the outcome is the file's alone.
fn load(path: &Path) -> Result<Loaded, Box<Failure>> {
    load_in(path, &Environment::new(|_| None))
}

fn yaml_files(directory: &str) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(directory)
        .expect("a directory")
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "yaml")
        })
        .collect();
    files.sort();
    files
}

fn written(files: &[(&str, &str)]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a directory");
    for (name, text) in files {
        let path = directory.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("directories");
        std::fs::write(path, text).expect("a file");
    }
    directory
}

fn loaded(directory: &tempfile::TempDir) -> Loaded {
    load(&directory.path().join("main.yaml")).unwrap_or_else(|failure| {
        panic!(
            "{}",
            failure.sources.render(&failure.diagnostics, Colour::Never)
        )
    })
}

const MAIN: &str = "\
version: 1
include: [{files: conf.d/*.yaml}]
listeners: {public: {address: 127.0.0.1:8080}}
services: {a: {endpoints: 127.0.0.1:9001}}
";

#[test]
fn included_files_hold_what_the_main_one_could() {
    let directory = written(&[
        ("main.yaml", MAIN),
        (
            "conf.d/b.yaml",
            "routes: {b: {match: {path: /b}, service: c}}",
        ),
        (
            "conf.d/c.yaml",
            "version: 1\nroutes: {c: {match: {path: /c}, service: a}}\nservices: {c: {endpoints: unix:/run/c}}",
        ),
    ]);
    let loaded = loaded(&directory);
    assert_eq!(loaded.config.routes.names().collect::<Vec<_>>(), ["b", "c"]);
    assert!(loaded.config.services.get("c").is_some());
    let (name, _) = loaded.config.routes.entry("c").expect("a route");
    assert!(
        loaded
            .sources
            .name(name.span().file)
            .is_some_and(|name| name.ends_with("conf.d/c.yaml"))
    );
    let directories = &loaded.dependencies.directories;
    assert!(directories.contains(&directory.path().to_owned()));
    assert!(directories.contains(&directory.path().join("conf.d")));
}

#[test]
fn includes_have_a_short_form() {
    let main = |include: &str| {
        format!(
            "version: 1\ninclude: {include}\nlisteners: {{public: {{address: 127.0.0.1:8080}}}}\n"
        )
    };
    let one = "routes: {a: {match: {path: /a}, respond: 204}}";
    for include in ["conf.d/*.yaml", "[conf.d/a.yaml]", "{files: conf.d/a.yaml}"] {
        let directory = written(&[("main.yaml", &main(include)), ("conf.d/a.yaml", one)]);
        let routes = loaded(&directory).config.routes;
        assert_eq!(routes.names().collect::<Vec<_>>(), ["a"], "{include}");
    }
}

#[test]
fn a_fingerprint_changes_with_any_file_and_only_then() {
    let files = [
        ("main.yaml", MAIN),
        (
            "conf.d/b.yaml",
            "routes: {b: {match: {path: /b}, service: a, policies: {ip_filter: {deny: {file: deny.txt}}}}}",
        ),
        ("conf.d/deny.txt", "192.0.2.1"),
    ];
    let directory = written(&files);
    let fingerprint = || loaded(&directory).dependencies.fingerprint;
    let first = fingerprint();
    assert_eq!(first, fingerprint());
    let mut seen = vec![first];
    for (name, text) in [
        ("conf.d/deny.txt", "192.0.2.2"),
        ("conf.d/d.yaml", "routes: {}"),
        ("main.yaml", &format!("{MAIN}# a comment\n")),
    ] {
        std::fs::write(directory.path().join(name), text).expect("a file");
        let next = fingerprint();
        assert!(!seen.contains(&next), "{name}");
        seen.push(next);
    }
    std::fs::remove_file(directory.path().join("conf.d/deny.txt")).expect("removed");
    let failure = load(&directory.path().join("main.yaml")).expect_err("a missing file");
    assert!(!seen.contains(&failure.dependencies.fingerprint));
    assert!(
        failure
            .dependencies
            .files
            .contains(&directory.path().join("conf.d/deny.txt"))
    );
}

#[test]
fn what_is_not_a_configuration_is_refused_with_words() {
    let message = |text: &[u8]| {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("main.yaml");
        std::fs::write(&path, text).expect("a file");
        let failure = load(&path).expect_err("a refusal");
        assert!(failure.partial.is_none());
        failure
            .diagnostics
            .first()
            .map(|diagnostic| diagnostic.message.clone())
            .unwrap_or_default()
    };
    assert_eq!(message(b""), "the file is empty");
    assert_eq!(message(b"# nothing\n"), "the file is empty");
    assert_eq!(message(b"[]"), "a configuration is a map, not a list");
    assert_eq!(message(b"version: \xff"), "the file is not UTF-8");
    let failure = load(Path::new("/nowhere/northgate.yaml")).expect_err("a refusal");
    assert_eq!(failure.diagnostics.len(), 1);
    assert!(load(Path::new("/dev")).is_err());
}

#[test]
fn a_file_is_included_once_and_not_by_itself() {
    let directory = written(&[
        (
            "main.yaml",
            "version: 1\ninclude: [{files: '*.yaml'}, {files: b.yaml}]\nlisteners: {public: {address: 127.0.0.1:8080}}",
        ),
        ("b.yaml", "routes: {}"),
    ]);
    let failure = load(&directory.path().join("main.yaml")).expect_err("a refusal");
    let messages: Vec<_> = failure
        .diagnostics
        .iter()
        .map(|diagnostic| diagnostic.message.as_str())
        .collect();
    assert_eq!(messages.len(), 2, "{messages:?}");
    assert!(
        messages
            .iter()
            .any(|message| message.ends_with("is included twice"))
    );
    assert!(messages.contains(&"the file includes itself"));
}

/// Nothing here is timed; it would take minutes if anything were quadratic.
#[test]
fn a_hundred_thousand_routes_and_a_hundred_errors_among_them_are_read() {
    const ROUTES: usize = 100_000;
    let mut text = String::from(
        "version: 1\nlisteners: {public: {address: 127.0.0.1:8080}}\nservices: {a: {endpoints: 127.0.0.1:9001}}\nroutes:\n",
    );
    for number in 0..ROUTES {
        text.push_str(&format!(
            "  route-{number}:\n    match: {{host: h{}.example.com, path: \"/v1/{{id}}/{number}/**\"}}\n    service: a\n",
            number % 1000
        ));
    }
    let directory = written(&[("main.yaml", &text)]);
    let config: Config = loaded(&directory).config;
    assert_eq!(config.routes.len(), ROUTES);
    assert!(config.routes.get("route-99999").is_some());

    let broken = text
        .replace("/77/**", "/77/***")
        .replace("99:\n    match", "99:\n    mach");
    let broken = format!(
        "{broken}defaults: {{timeouts: {{idle: 1, total: 2, connect: 3}}, body_limit: 4}}\n"
    );
    let directory = written(&[("main.yaml", &broken)]);
    let failure = load(&directory.path().join("main.yaml")).expect_err("errors");
    assert_eq!(failure.diagnostics.len(), 100);
}

/// How an editor reads a value: unquoted numbers and words are not text.
fn as_json(node: &super::node::Node) -> serde_json::Value {
    use super::node::Value;
    match &node.value {
        Value::Empty | Value::Faulty => serde_json::Value::Null,
        Value::List(items) => items.iter().map(as_json).collect(),
        Value::Map(entries) => entries
            .iter()
            .map(|entry| (entry.key.to_string(), as_json(&entry.value)))
            .collect(),
        Value::Scalar(scalar) if scalar.quoted => scalar.text.to_string().into(),
        Value::Scalar(scalar) => match scalar.text.parse::<serde_json::Value>() {
            Ok(value) if value.is_number() || value.is_boolean() => value,
            _ => scalar.text.to_string().into(),
        },
    }
}

fn read_as_json(path: &Path) -> serde_json::Value {
    let text = std::fs::read_to_string(path).expect("a file");
    let mut errors = Vec::new();
    let root = super::node::parse(crate::units::FileId(0), &text, &mut errors).expect("YAML");
    as_json(&root)
}

/// Why an editor would mark the file, if it would.
fn schema_mismatch(path: &Path) -> Option<String> {
    let schema: serde_json::Value = serde_json::from_str(&schema::text()).expect("JSON");
    schema::check::mismatch(&schema, &schema, &read_as_json(path))
}

#[test]
fn editors_accept_what_is_shipped_and_so_do_we() {
    let mut files = yaml_files("conf");
    files.extend(yaml_files("conf/recipes"));
    assert!(files.len() > 8, "{files:?}");
    for path in files {
        assert_eq!(schema_mismatch(&path), None, "{}", path.display());
        if let Err(failure) = load(&path) {
            let errors: Vec<_> = failure
                .diagnostics
                .iter()
                // certificates are made where the examples are run
                .filter(|diagnostic| !diagnostic.message.starts_with("can't read"))
                .cloned()
                .collect();
            assert!(
                errors.is_empty(),
                "{}",
                failure.sources.render(&errors, Colour::Never)
            );
        }
    }
}

/// Every key that a map of the schema may have, whatever map it is.
fn keys_of(schema: &serde_json::Value, keys: &mut std::collections::BTreeSet<String>) {
    match schema {
        serde_json::Value::Object(fields) => {
            if let Some(properties) = fields.get("properties").and_then(|all| all.as_object()) {
                keys.extend(properties.keys().cloned());
            }
            fields.values().for_each(|value| keys_of(value, keys));
        }
        serde_json::Value::Array(items) => items.iter().for_each(|item| keys_of(item, keys)),
        _ => {}
    }
}

#[test]
fn the_full_tour_leaves_nothing_out() {
    let schema: serde_json::Value = serde_json::from_str(&schema::text()).expect("JSON");
    let mut keys = std::collections::BTreeSet::new();
    keys_of(&schema, &mut keys);
    assert!(keys.len() > 50, "{keys:?}");
    let text = std::fs::read_to_string("conf/full.yaml").expect("the full tour");
    let missing: Vec<_> = keys
        .iter()
        .filter(|key| !text.contains(&format!("{key}:")))
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
}

/// One sample for each form that has a schema of its own: what we read, an editor accepts.
#[test]
fn the_schema_and_the_parser_agree_on_samples() {
    let samples = [
        ("trusted_proxies: [10.0.0.0/8, unix]", true),
        ("trusted_proxies: unix", true),
        ("access_log: off", true),
        ("access_log: {path: \"-\", format: json}", true),
        ("access_log: {pth: a}", false),
        ("threads: ${env:NORTHGATE_TEST_UNSET:-4}", true),
        ("threads: four", false),
        ("watch: on", true),
        ("watch: maybe", false),
        ("drain_timeout: 30", false),
        ("drain_timeout: 30s", true),
        (
            "defaults: {body_limit: off, host_header: endpoint, timeouts: {idle: off, total: 5s}}",
            true,
        ),
        ("defaults: {host_header: orders.internal:8080}", true),
        ("defaults: {retries: off}", true),
        (
            "defaults: {retries: {attempts: 3, on: [reset, 503], backoff: {base: 1ms}, budget: off}}",
            true,
        ),
        (
            "defaults: {retries: {on: timeout, idempotency_key: on}}",
            true,
        ),
        ("defaults: {retries: {on: 404}}", false),
        ("defaults: {retries: {on: always}}", false),
        ("services: {s: {endpoints: 10.0.0.1:80}}", true),
        (
            "services: {s: {endpoints: [10.0.0.1:80, {address: unix:/run/s, weight: 0}], balance: round_robin}}",
            true,
        ),
        ("services: {s: {endpoints: \"orders.internal:80\"}}", true),
        (
            "services: {s: {endpoints: {srv: _http._tcp.a.internal}}}",
            true,
        ),
        (
            "services: {s: {endpoints: [{file: a.yaml}, 10.0.0.1:80]}}",
            true,
        ),
        (
            "services: {s: {endpoints: {file: a.yaml, weight: 2}}}",
            false,
        ),
        (
            "services: {s: {endpoints: {srv: a.internal, file: a.yaml}}}",
            false,
        ),
        (
            "resolver: {servers: [10.0.0.1, \"[::1]:5353\"], family: ipv6}",
            true,
        ),
        ("resolver: {family: ipv5}", false),
        ("services: {s: {endpoints: []}}", false),
        ("services: {s: {endpoints: [{weight: 1}]}}", false),
        ("services: {s: {balance: fastest}}", false),
        ("services: {s: {balance: ewma, slow_start: 30s}}", true),
        ("services: {s: {slow_start: 30}}", false),
        (
            "services: {s: {balance: {consistent_hash: client_address}}}",
            true,
        ),
        (
            "services: {s: {balance: {consistent_hash: [header.x-tenant, cookie.sid]}}}",
            true,
        ),
        (
            "services: {s: {balance: {consistent_hash: {by: [path], overload: off}}}}",
            true,
        ),
        (
            "services: {s: {balance: {consistent_hash: {by: path, overload: 50%}}}}",
            true,
        ),
        ("services: {s: {balance: {consistent_hash: []}}}", false),
        (
            "services: {s: {balance: {consistent_hash: {overload: 50%}}}}",
            false,
        ),
        (
            "services: {s: {balance: {consistent_hash: heder.x}}}",
            false,
        ),
        ("services: {s: {sticky: {cookie: sid, max_age: 8h}}}", true),
        ("services: {s: {sticky: {by: [cookie.user, host]}}}", true),
        ("services: {s: {sticky: {name: sid}}}", false),
        ("secrets: {cookies: \"0123456789abcdef\"}", true),
        ("secrets: {cookies: \"\"}", false),
        ("routes: {r: {match: {path: /a}, service: s}}", true),
        (
            "routes: {r: {match: [{path: /a}, {host: [a.com, b.com]}], service: [\"10.0.0.1:80\"]}}",
            true,
        ),
        (
            "routes: {r: {match: {path: /a}, service: {endpoints: 10.0.0.1:80}}}",
            true,
        ),
        ("routes: {r: {match: {path: /a}, service: []}}", false),
        ("routes: {r: {match: {path: /a}, redirect: b}}", false),
        (
            "routes: {r: {match: {path: /a, header: {x-a: on}, query: {b: 1}}, respond: 204}}",
            true,
        ),
        ("routes: {r: {match: {path: /a}, redirect: /b}}", true),
        (
            "routes: {r: {match: {path: /a}, redirect: {to: /b, status: 301}}}",
            true,
        ),
        (
            "routes: {r: {match: {path: /a}, redirect: {to: /b, status: 200}}}",
            false,
        ),
        ("routes: {r: {match: {path: /a}, respond: 204}}", true),
        (
            "routes: {r: {match: {path: /a}, respond: {status: 200, body: 1.10}}}",
            true,
        ),
        ("routes: {r: {match: {path: /a}, respond: 99}}", false),
        ("routes: {r: {match: {path: /a}, respond: ~}}", false),
        ("routes: {a b: {match: {path: /a}, respond: 204}}", false),
        (
            "policies: {ip_filter: {deny: 10.0.0.0/8, mode: shadow}, headers.a: {response: {set: {x-a: b}}}}",
            true,
        ),
        ("policies: {ip_filter: off}", true),
        ("policies: {ip_filter: {deny: []}}", false),
        ("policies: {ip_fliter: off}", false),
        ("unknown: 1", false),
    ];
    for (sample, good) in samples {
        let text =
            format!("version: 1\nlisteners: {{public: {{address: 127.0.0.1:8080}}}}\n{sample}\n");
        let directory = written(&[("main.yaml", &text)]);
        let path = directory.path().join("main.yaml");
        let read = load(&path).map(drop);
        assert_eq!(
            read.is_ok(),
            good,
            "{sample}: {:?}",
            read.err().map(|failure| failure.diagnostics)
        );
        assert_eq!(
            schema_mismatch(&path).is_none(),
            good,
            "{sample}: {:?}",
            schema_mismatch(&path)
        );
    }
}

/// What is written out again is what was read.
#[test]
fn the_effective_configuration_can_be_read_back() {
    let directory = written(&[
        ("main.yaml", MAIN),
        (
            "conf.d/b.yaml",
            "routes: {b: {match: {path: /b}, service: a}}",
        ),
    ]);
    let shown = |directory: &tempfile::TempDir| {
        let mut shown = super::effective(&loaded(directory).config);
        // what the includes held is shown in its place
        shown.as_object_mut().expect("a map").remove("include");
        shown
    };
    let first = shown(&directory);
    let again = written(&[("main.yaml", &first.to_string())]);
    assert_eq!(shown(&again), first);
}
