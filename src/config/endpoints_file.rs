//! A file of endpoints, as `endpoints: {file: …}` names: a YAML list of what `endpoints` holds in a service, addresses
//! without names.
//!
//! It is read at load and whenever it changes, by itself: it has no includes, no references, and no part in `watch`.

use super::context::{Context, Environment, read_bounded};
use super::model::Endpoint;
use super::{de, node};
use crate::diagnostic::{Diagnostic, Sources, Span};
use crate::units::{Address, Spanned};
use std::net::SocketAddr;
use std::path::Path;

/// The size of such a file.
const SIZE_MAX: u64 = 4 << 20;

/// An endpoint of a file.
pub type Listed = (SocketAddr, u32);

/// The endpoints of a file, `endpoints_max` at most.
///
/// # Errors
/// What is wrong, each with its line, column and hint, in one text.
pub fn read(path: &Path, endpoints_max: usize) -> Result<Vec<Listed>, String> {
    let bytes = read_bounded(path, SIZE_MAX).map_err(|invalid| invalid.to_string())?;
    let shown = path.display();
    let text = String::from_utf8(bytes).map_err(|_| format!("{shown}: the file is not UTF-8"))?;
    let mut sources = Sources::default();
    let id = sources.add(shown.to_string(), text.clone());
    let mut diagnostics = Vec::new();
    let mut listed = Vec::new();
    match node::parse(id, &text, &mut diagnostics) {
        Some(root) => {
            let environment = Environment::new(|_| None);
            let directories = vec![path.parent().unwrap_or(Path::new("")).to_owned()];
            let cx = Context::new(&environment, &directories);
            let written = de::read::<Vec<Spanned<Endpoint>>>(&root, &cx);
            diagnostics.extend(cx.into_found().diagnostics);
            for endpoint in written.unwrap_or_default() {
                match place_of(&endpoint) {
                    Ok(place) => listed.push(place),
                    Err(diagnostic) => diagnostics.push(diagnostic),
                }
            }
        }
        // an empty file is one that is being written, or was forgotten; an empty list is meant
        None if diagnostics.is_empty() => {
            let empty = Diagnostic::error("the file is empty", Span::new(id, 0, 0));
            diagnostics.push(empty.hint("`[]` means that there are no endpoints"));
        }
        None => {}
    }
    if listed.len() > endpoints_max {
        let message = format!("a service takes up to {endpoints_max} endpoints");
        diagnostics.push(Diagnostic::error(message, Span::new(id, 0, 0)));
    }
    diagnostics.retain(Diagnostic::is_error);
    if diagnostics.is_empty() {
        return Ok(listed);
    }
    sources.sort(&mut diagnostics);
    let lines = diagnostics.iter().map(|diagnostic| {
        let place = sources.place(diagnostic.span).unwrap_or_default();
        let hint = diagnostic.hint.as_ref();
        let hint = hint.map(|hint| format!(" ({hint})")).unwrap_or_default();
        format!("{place}: {}{hint}", diagnostic.message)
    });
    Err(lines.collect::<Vec<_>>().join("; "))
}

fn place_of(endpoint: &Spanned<Endpoint>) -> Result<Listed, Diagnostic> {
    let (what, shown) = match &**endpoint {
        Endpoint::Address {
            address: Address::Ip(address),
            weight,
        } => return Ok((*address, *weight)),
        Endpoint::Address { address, .. } => ("an address", address.to_string()),
        Endpoint::Srv(name) => ("SRV records", name.to_string()),
        Endpoint::File(file) => ("a file", file.clone()),
    };
    let message = match what {
        "an address" => format!("`{shown}` is not an IP address and a port"),
        _ => format!("`{shown}` is {what}, which an endpoints file can't hold"),
    };
    Err(Diagnostic::error(message, endpoint.span())
        .hint("`ip:port`, or `{address: …, weight: …}`; names stand in the configuration"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Result<Vec<(String, u32)>, String> {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("endpoints.yaml");
        std::fs::write(&path, text).expect("a file");
        let listed = read(&path, 3).map_err(|error| {
            let directory = format!("{}/", directory.path().display());
            error.replace(&directory, "")
        })?;
        Ok(listed
            .into_iter()
            .map(|(address, weight)| (address.to_string(), weight))
            .collect())
    }

    #[test]
    fn a_list_of_addresses_with_and_without_weights() {
        let listed = of("- 10.0.0.1:80\n- {address: '[fd00::1]:80', weight: 3}\n");
        let wanted = [
            ("10.0.0.1:80".to_owned(), 1),
            ("[fd00::1]:80".to_owned(), 3),
        ];
        assert_eq!(listed.as_deref(), Ok(&wanted[..]));
        assert_eq!(of("[]"), Ok(Vec::new()));
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        for (text, wanted) in [
            (
                "",
                "endpoints.yaml:1:1: the file is empty (`[]` means that there are no endpoints)",
            ),
            (
                "- 10.0.0.1:80\n- 10.0.0.2\n",
                "endpoints.yaml:2:3: the address `10.0.0.2` lacks a port (such as `10.0.0.2:8080`)",
            ),
            (
                "- orders:80\n",
                "endpoints.yaml:1:3: `orders:80` is not an IP address and a port (`ip:port`, or `{address: …, weight: …}`; names stand in the configuration)",
            ),
            (
                "- {srv: _http._tcp.a}\n",
                "endpoints.yaml:1:3: `_http._tcp.a` is SRV records, which an endpoints file can't hold (`ip:port`, or `{address: …, weight: …}`; names stand in the configuration)",
            ),
            (
                "- 10.0.0.1:80\n- 10.0.0.2:80\n- 10.0.0.3:80\n- 10.0.0.4:80\n",
                "endpoints.yaml:1:1: a service takes up to 3 endpoints",
            ),
        ] {
            assert_eq!(of(text), Err(wanted.to_owned()), "{text:?}");
        }
        assert!(of("- [10.0.0.1:80\n").is_err_and(|error| error.contains("endpoints.yaml:")));
        assert!(read(Path::new("/dev/zero"), 3).is_err());
    }
}
