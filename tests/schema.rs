//! The committed schema is the one that the types say.

use crate::harness::northgate;
use std::path::Path;

#[tokio::test]
async fn the_committed_schema_is_up_to_date() {
    let output = northgate(&["schema"]).await;
    assert_eq!(output.code, Some(0), "{output:?}");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf/schema.json");
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, &output.stdout).expect("the schema");
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == output.stdout,
        "conf/schema.json is out of date: `northgate schema > conf/schema.json`"
    );
    let schema: serde_json::Value = serde_json::from_str(&output.stdout).expect("JSON");
    assert_eq!(schema["$schema"], "http://json-schema.org/draft-07/schema#");
}
