//! The JSON schema of the configuration, for editors: made from the types that read it.
//!
//! What the types can't say is added here: a reference such as `${env:PORT}` may stand for any scalar, text may look
//! like a number, `on` and `off` are switches, and nothing may be `null`.

use schemars::generate::SchemaSettings;
use schemars::transform::{Transform, transform_subschemas};
use schemars::{JsonSchema, Schema};
use serde_json::{Value, json};

/// A text that holds a reference.
const REFERENCE: &str = "\\$\\{";

/// The schema of a whole configuration, indented, ending in a line break.
pub fn text() -> String {
    let mut schema = schema_of::<super::Config>("Northgate configuration");
    // included files name this schema too, and have no listeners
    schema.insert("required".to_owned(), json!(["version"]));
    let mut fields = schema.to_value();
    let mut ordered = serde_json::Map::new();
    if let Some(fields) = fields.as_object_mut() {
        // what the file is comes first
        for key in ["$schema", "title", "description"] {
            ordered.extend(fields.remove(key).map(|value| (key.to_owned(), value)));
        }
        ordered.append(fields);
    }
    format!("{:#}\n", Value::Object(ordered))
}

/// The schema of a type, as the configuration's language has it. Draft 7, which editors know best.
pub(super) fn schema_of<T: JsonSchema>(title: &str) -> Schema {
    let mut settings = SchemaSettings::draft07();
    settings.transforms.push(Box::new(AsWritten));
    let mut schema = settings.into_generator().into_root_schema_for::<T>();
    schema.insert("title".to_owned(), title.into());
    schema
}

/// Widens what serde's types say to what may be written, and narrows it where `null` is concerned.
#[derive(Clone, Debug)]
struct AsWritten;

impl Transform for AsWritten {
    fn transform(&mut self, schema: &mut Schema) {
        transform_subschemas(self, schema);
        without_null(schema);
        let Some(kind) = schema
            .get("type")
            .and_then(Value::as_str)
            .map(str::to_owned)
        else {
            return;
        };
        match kind.as_str() {
            "string" => as_text(schema),
            "integer" | "number" => {
                or_reference(schema, json!({"type": "string", "pattern": REFERENCE}))
            }
            "boolean" => or_reference(
                schema,
                json!({"type": "string", "pattern": format!("^(on|off)$|{REFERENCE}")}),
            ),
            _ => {}
        }
    }
}

/// An optional field may be left out; `null` is an error.
fn without_null(schema: &mut Schema) {
    let Some(object) = schema.as_object_mut() else {
        return;
    };
    if let Some(Value::Array(kinds)) = object.get_mut("type") {
        kinds.retain(|kind| kind != "null");
        if let [only] = kinds.as_slice() {
            let only = only.clone();
            object.insert("type".into(), only);
        }
    }
    if let Some(Value::Array(values)) = object.get_mut("enum") {
        values.retain(|value| !value.is_null());
    }
    if object.get("default").is_some_and(Value::is_null) {
        object.remove("default");
    }
    if let Some(Value::Array(cases)) = object.get_mut("anyOf") {
        cases.retain(|case| case.get("type").is_none_or(|kind| kind != "null"));
        if let [only] = cases.as_slice() {
            let only = only.clone();
            object.remove("anyOf");
            join(object, only);
        }
    }
}

/// Puts the only case of an `anyOf` in its place. Beside a `$ref`, draft 7 ignores everything, hence `allOf`.
fn join(object: &mut serde_json::Map<String, Value>, only: Value) {
    match only {
        Value::Object(fields) if fields.contains_key("$ref") && !object.is_empty() => {
            object.insert("allOf".into(), json!([fields]));
        }
        Value::Object(fields) => {
            for (key, value) in fields {
                object.entry(key).or_insert(value);
            }
        }
        other => {
            object.insert("allOf".into(), json!([other]));
        }
    }
}

/// Text keeps what was written, so `1.10` and `on` are text too; where a text has a form, a reference may stand for it.
fn as_text(schema: &mut Schema) {
    let closed = ["const", "enum", "not"]
        .iter()
        .any(|key| schema.get(*key).is_some());
    if closed {
        return;
    }
    match schema
        .get("pattern")
        .and_then(Value::as_str)
        .map(str::to_owned)
    {
        Some(pattern) => schema.insert("pattern".into(), format!("({pattern})|{REFERENCE}").into()),
        None => schema.insert("type".into(), json!(["string", "number", "boolean"])),
    };
}

/// Lets a reference stand for a value that is not text.
fn or_reference(schema: &mut Schema, reference: Value) {
    let Some(object) = schema.as_object_mut() else {
        return;
    };
    let description = object.remove("description");
    let default = object.remove("default");
    let plain = Value::Object(std::mem::take(object));
    object.extend(
        [("description", description), ("default", default)]
            .into_iter()
            .filter_map(|(key, value)| value.map(|value| (key.to_owned(), value))),
    );
    object.insert("anyOf".into(), json!([plain, reference]));
}

/// As much of a JSON schema's meaning as the configuration's schema uses, so that tests can hold both readers of a file,
/// the parser and an editor, to the same samples.
#[cfg(test)]
pub(super) mod check {
    use serde_json::Value;

    /// Why a value does not fit a schema, if it does not.
    pub fn mismatch(root: &Value, schema: &Value, value: &Value) -> Option<String> {
        let object = match schema {
            Value::Bool(true) => return None,
            Value::Bool(false) => return Some(format!("{value} may not be here")),
            other => other.as_object()?,
        };
        if let Some(reference) = object.get("$ref").and_then(Value::as_str) {
            let target = root
                .pointer(reference.trim_start_matches('#'))
                .expect("a definition");
            return mismatch(root, target, value);
        }
        object
            .iter()
            .find_map(|(keyword, rule)| one(root, object, keyword, rule, value))
    }

    fn one(
        root: &Value,
        schema: &serde_json::Map<String, Value>,
        keyword: &str,
        rule: &Value,
        value: &Value,
    ) -> Option<String> {
        let cases = || rule.as_array().expect("cases").iter();
        let fails = |failed: bool| failed.then(|| format!("{value} breaks {keyword} {rule}"));
        match keyword {
            "type" => match rule {
                Value::Array(kinds) => fails(!kinds.iter().any(|kind| has_type(kind, value))),
                kind => fails(!has_type(kind, value)),
            },
            "enum" => fails(!cases().any(|case| case == value)),
            "const" => fails(rule != value),
            "anyOf" | "oneOf" => {
                let failed: Vec<_> = cases()
                    .filter_map(|case| mismatch(root, case, value))
                    .collect();
                (failed.len() == cases().count()).then(|| failed.join(" and "))
            }
            "allOf" => cases().find_map(|case| mismatch(root, case, value)),
            "pattern" => {
                let pattern = regex::Regex::new(rule.as_str().expect("text")).expect("a pattern");
                fails(value.as_str().is_some_and(|text| !pattern.is_match(text)))
            }
            "minLength" => fails(
                value
                    .as_str()
                    .is_some_and(|text| (text.len() as u64) < rule.as_u64().unwrap_or(0)),
            ),
            "minimum" => fails(
                value
                    .as_f64()
                    .is_some_and(|number| number < rule.as_f64().unwrap_or(f64::MIN)),
            ),
            "maximum" => fails(
                value
                    .as_f64()
                    .is_some_and(|number| number > rule.as_f64().unwrap_or(f64::MAX)),
            ),
            "items" => value
                .as_array()?
                .iter()
                .find_map(|item| mismatch(root, rule, item)),
            "minItems" => fails(
                value
                    .as_array()
                    .is_some_and(|items| (items.len() as u64) < rule.as_u64().unwrap_or(0)),
            ),
            "required" => {
                let fields = value.as_object()?;
                fails(!cases().all(|field| fields.contains_key(field.as_str().unwrap_or_default())))
            }
            "propertyNames" => value
                .as_object()?
                .keys()
                .find_map(|key| mismatch(root, rule, &Value::from(key.as_str()))),
            "properties" | "patternProperties" | "additionalProperties" => {
                fields(root, schema, keyword, value)
            }
            "$schema" | "title" | "description" | "default" | "examples" | "definitions"
            | "format" => None,
            "minProperties" | "maxProperties" | "uniqueItems" | "maxItems" | "maxLength"
            | "not" | "deprecated" => None,
            other => Some(format!("the test does not know the keyword `{other}`")),
        }
    }

    fn has_type(kind: &Value, value: &Value) -> bool {
        match kind.as_str().unwrap_or_default() {
            "string" => value.is_string(),
            "number" => value.is_number(),
            "integer" => value.is_u64() || value.is_i64(),
            "boolean" => value.is_boolean(),
            "array" => value.is_array(),
            "object" => value.is_object(),
            _ => value.is_null(),
        }
    }

    fn fields(
        root: &Value,
        schema: &serde_json::Map<String, Value>,
        keyword: &str,
        value: &Value,
    ) -> Option<String> {
        let named = |key: &str| schema.get("properties").and_then(|all| all.get(key));
        let patterns = schema.get("patternProperties").and_then(Value::as_object);
        let matching = |key: &str| {
            patterns.and_then(|patterns| {
                patterns
                    .iter()
                    .find(|(pattern, _)| {
                        regex::Regex::new(pattern).expect("a pattern").is_match(key)
                    })
                    .map(|(_, rule)| rule)
            })
        };
        value.as_object()?.iter().find_map(|(key, value)| {
            let rule = match keyword {
                "properties" => named(key)?,
                "patternProperties" => matching(key)?,
                _ if named(key).is_some() || matching(key).is_some() => return None,
                _ => schema.get("additionalProperties")?,
            };
            mismatch(root, rule, value).map(|why| format!("{key}: {why}"))
        })
    }
}
