//! Conditions in CEL, the Common Expression Language (github.com/google/cel-spec), with a bound on what they can cost.
//!
//! A condition is checked when it is loaded: names that do not exist are errors, and so is what could take long. The
//! bound assumes lists of a thousand members, which is more than a request or a token can bring in.

use crate::diagnostic::did_you_mean;
use crate::exchange::View;
use crate::exchange::canonical::{cookies, query_pairs};
use crate::identity::Identity;
use cel::common::ast::{EntryExpr, Expr, IdedExpr, LiteralValue};
use cel::objects::{Key, Map};
use cel::{Context, Env, ExecutionError, Program, Value};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

/// The longest condition, in bytes.
const SOURCE_MAX: usize = 4096;
/// The deepest nesting of its parts: evaluation is recursive.
const DEPTH_MAX: usize = 32;
/// What is assumed of a list that a macro goes through.
const LENGTH: u64 = 1000;
/// The most steps that a condition may need: some milliseconds.
const COST_MAX: u64 = 100_000;
/// A regular expression is made anew each time.
const REGEX_COST: u64 = 1000;
/// The largest one, compiled: to make it takes a millisecond at most.
const REGEX_BYTES_MAX: usize = 64 * 1024;

/// Variables that are maps of texts.
const TEXTS: &[&str] = &["params", "headers", "query", "cookies"];

/// Declares the variables: the name, whether it says who calls, and where its value comes from.
macro_rules! variables {
    ($($name:ident $identity:literal $value:expr;)*) => {
        /// The names of all variables.
        const VARIABLES: &[&str] = &[$(stringify!($name)),*];

        /// Those that say who calls.
        const OF_IDENTITY: &[&str] = &[$(if $identity { stringify!($name) } else { "" }),*];

        fn value_of(name: &str, view: View<'_>, identity: &Identity) -> Value {
            let nothing = |_: &str| Value::Null;
            $(if name == stringify!($name) {
                let make: fn(View<'_>, &Identity) -> Value = $value;
                return make(view, identity);
            })*
            nothing(name)
        }
    };
}

variables! {
    method false |view, _| text(view.request.method.as_str());
    path false |view, _| text(view.request.uri.path());
    host false |view, _| text(view.facts.host.as_str());
    scheme false |view, _| text(view.facts.scheme.as_str());
    params false |view, _| params(view);
    headers false |view, _| headers(view);
    query false |view, _| map(query_pairs(view.request.uri.query()).map(|(name, value)| (name.into_owned(), text(&value))));
    cookies false |view, _| map(cookies(&view.request.headers).map(|(name, value)| {
        (String::from_utf8_lossy(name).into_owned(), text(&String::from_utf8_lossy(value)))
    }));
    client_address false |view, _| view.facts.client_address.map_or(Value::Null, |address| text(&address.to_string()));
    route false |view, _| or_null(view.facts.route.as_deref());
    listener false |view, _| text(&view.facts.connection.listener.name);
    certificate false |view, _| certificate(view);
    consumer true |_, identity| or_null(identity.consumer.as_deref());
    plan true |_, identity| or_null(identity.plan.as_deref());
    groups true |_, identity| list(&identity.groups);
    credential true |_, identity| or_null(identity.credential.as_deref());
    subject true |_, identity| or_null(identity.subject.as_deref());
    scopes true |_, identity| list(&identity.scopes);
    claims true |_, identity| map(identity.claims.iter().flat_map(|claims| claims.iter()).map(|(name, value)| (name.clone(), json(value))));
}

/// The functions of the language that are of use here.
const FUNCTIONS: &[&str] = &[
    "contains",
    "startsWith",
    "endsWith",
    "matches",
    "size",
    "string",
    "int",
    "uint",
    "double",
    "bytes",
    "bool",
    "type",
    "dyn",
];

/// Why a text is no condition.
#[derive(Debug, PartialEq, Eq)]
pub struct ExpressionError {
    pub message: String,
    pub hint: Option<String>,
}

impl ExpressionError {
    fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            hint: None,
        }
    }

    fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// A condition, ready to be asked.
pub struct Expression {
    source: Box<str>,
    program: Program,
    env: Arc<Env>,
    /// The variables that it names.
    variables: Vec<&'static str>,
}

impl Expression {
    /// # Errors
    /// It is not CEL, names what does not exist, or could take too long.
    pub fn compile(source: &str) -> Result<Self, ExpressionError> {
        if source.len() > SOURCE_MAX {
            let message = format!("a condition has at most {SOURCE_MAX} bytes");
            return Err(
                ExpressionError::new(message).hint("split it over several `authorize.NAME`")
            );
        }
        // the parser is recursive too
        let nesting = source
            .bytes()
            .filter(|byte| b"([{!-?".contains(byte))
            .count();
        if nesting > 200 {
            return Err(ExpressionError::new("the condition is nested too deeply"));
        }
        let env = Arc::new(Env::stdlib());
        let program = env.compile(source).map_err(|errors| {
            let first = errors.errors.first();
            let message = first.map_or_else(
                || "it is not a condition in CEL".to_owned(),
                |error| {
                    format!(
                        "it is not a condition in CEL: {}",
                        error.msg.lines().next().unwrap_or_default()
                    )
                },
            );
            ExpressionError::new(message)
                .hint("such as `claims.tenant == params.tenant && 'admin' in groups`")
        })?;
        let mut variables = Vec::new();
        let mut walk = Walk {
            variables: &mut variables,
            bound: Vec::new(),
            depth: 0,
        };
        let cost = walk.cost(program.expression())?;
        check_truth(&program.expression().expr)?;
        if cost > COST_MAX {
            let message = "the condition could take too long";
            let hint = "a macro such as `exists` inside another goes through all pairs, and `matches` inside one makes its pattern anew each time";
            return Err(ExpressionError::new(message).hint(hint));
        }
        Ok(Self {
            source: source.into(),
            program,
            env,
            variables,
        })
    }

    /// Whether it asks for the certificate of the client.
    pub fn asks_for_a_certificate(&self) -> bool {
        self.variables.contains(&"certificate")
    }

    /// Whether it asks who calls.
    pub fn needs_an_identity(&self) -> bool {
        self.variables.iter().any(|name| OF_IDENTITY.contains(name))
    }

    /// Whether it holds for a request.
    ///
    /// # Errors
    /// It has no answer, such as where it compares a claim that the token does not have.
    pub fn holds(&self, view: View<'_>) -> Result<bool, String> {
        let nobody = Identity::default();
        let identity = view.facts.identity.as_deref().unwrap_or(&nobody);
        let mut context = Context::with_env(self.env.clone());
        for name in &self.variables {
            context.add_variable_from_value(*name, value_of(name, view, identity));
        }
        match self.program.execute(&context) {
            Ok(Value::Bool(holds)) => Ok(holds),
            Ok(_) => Err("its value is neither true nor false".to_owned()),
            Err(error) => Err(self.words(&error)),
        }
    }
}

impl Expression {
    /// What went wrong, for the log. Nothing of a request or a token is in it: `headers.authorization` is a value like any
    /// other, and the errors of the language quote values.
    fn words(&self, error: &ExecutionError) -> String {
        use ExecutionError::*;
        match error {
            // these have names and types alone
            InvalidArgumentCount { .. } | NoSuchOverload(_) | MissingArgumentOrTarget => {
                error.to_string()
            }
            NoSuchKey(key) if self.source.contains(&***key) => format!("there is no `{key}`"),
            NoSuchKey(_) => "there is no such key".to_owned(),
            FunctionError { function, .. } => format!("`{function}` can't be made of that"),
            UnsupportedBinaryOperator(operator, ..) => {
                format!("`{operator}` does not go with such values")
            }
            Overflow(..) => "a number is too large".to_owned(),
            DivisionByZero(_) | RemainderByZero(_) => "a division by zero".to_owned(),
            IndexOutOfBounds(_) => "a list has no such place".to_owned(),
            _ => "values are of kinds that do not go together".to_owned(),
        }
    }
}

/// Goes through the parts of a condition, and adds up the steps that they may take.
struct Walk<'w> {
    variables: &'w mut Vec<&'static str>,
    /// The variables of the macros around a part.
    bound: Vec<String>,
    depth: usize,
}

impl Walk<'_> {
    fn cost(&mut self, part: &IdedExpr) -> Result<u64, ExpressionError> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(ExpressionError::new("the condition is nested too deeply"));
        }
        let cost = self.steps(&part.expr)?.saturating_add(1);
        self.depth -= 1;
        Ok(cost)
    }

    fn sum<'e>(
        &mut self,
        parts: impl IntoIterator<Item = &'e IdedExpr>,
    ) -> Result<u64, ExpressionError> {
        let mut sum = 0_u64;
        for part in parts {
            sum = sum.saturating_add(self.cost(part)?);
        }
        Ok(sum)
    }

    fn steps(&mut self, expr: &Expr) -> Result<u64, ExpressionError> {
        match expr {
            Expr::Unspecified | Expr::Literal(_) => Ok(0),
            Expr::Ident(name) => self.names(name).map(|()| 0),
            Expr::Select(select) => {
                if matches!(&select.operand.expr, Expr::Ident(name) if name == "headers") {
                    check_header_name(&select.field)?;
                }
                self.cost(&select.operand)
            }
            Expr::List(list) => self.sum(&list.elements),
            Expr::Map(map) => {
                let mut sum = 0_u64;
                for entry in &map.entries {
                    if let EntryExpr::MapEntry(entry) = &entry.expr {
                        sum = sum.saturating_add(self.sum([&entry.key, &entry.value])?);
                    }
                }
                Ok(sum)
            }
            Expr::Struct(_) => Err(ExpressionError::new("a condition makes no messages")),
            Expr::Call(call) => {
                check_function(&call.func_name)?;
                let own = match &*call.func_name {
                    "matches" => {
                        // a pattern of the client's would be the client's program
                        let Some(pattern) = call.args.last().and_then(|part| literal(&part.expr))
                        else {
                            let message = "the pattern of `matches` must be written out";
                            return Err(ExpressionError::new(message));
                        };
                        check_pattern(pattern)?;
                        REGEX_COST
                    }
                    _ => 0,
                };
                check_header(call)?;
                let target = call.target.as_deref();
                Ok(self
                    .sum(target.into_iter().chain(&call.args))?
                    .saturating_add(own))
            }
            Expr::Comprehension(comprehension) => {
                let once = self.sum([&comprehension.iter_range, &comprehension.accu_init])?;
                let before = self.bound.len();
                self.bound.push(comprehension.iter_var.clone());
                self.bound.extend(comprehension.iter_var2.clone());
                self.bound.push(comprehension.accu_var.clone());
                let each = self.sum([&comprehension.loop_cond, &comprehension.loop_step])?;
                let last = self.cost(&comprehension.result)?;
                self.bound.truncate(before);
                Ok(each
                    .saturating_mul(LENGTH)
                    .saturating_add(once)
                    .saturating_add(last))
            }
        }
    }

    fn names(&mut self, name: &str) -> Result<(), ExpressionError> {
        if self.bound.iter().any(|bound| bound == name) {
            return Ok(());
        }
        let Some(known) = VARIABLES.iter().find(|known| **known == name) else {
            let error = ExpressionError::new(format!("a condition knows no `{name}`"));
            return Err(match did_you_mean(name, VARIABLES) {
                Some(meant) => error.hint(format!("did you mean `{meant}`?")),
                None => error.hint(format!("there are `{}`", VARIABLES.join("`, `"))),
            });
        };
        if !self.variables.contains(known) {
            self.variables.push(known);
        }
        Ok(())
    }
}

fn literal(expr: &Expr) -> Option<&str> {
    match expr {
        Expr::Literal(LiteralValue::String(text)) => Some(text.inner()),
        _ => None,
    }
}

/// A pattern is tried here, so that it can't fail later, nor be large.
fn check_pattern(pattern: &str) -> Result<(), ExpressionError> {
    let made = regex::RegexBuilder::new(pattern)
        .size_limit(REGEX_BYTES_MAX)
        .build();
    match made {
        Ok(_) => Ok(()),
        Err(regex::Error::CompiledTooBig(_)) => Err(ExpressionError::new(
            "the pattern of `matches` is too large",
        )
        .hint("classes of Unicode such as `\\w` are large: write `[a-z0-9]`, and repeat less")),
        Err(error) => {
            let text = error.to_string();
            let last = text.lines().last().unwrap_or_default();
            let why = last.strip_prefix("error: ").unwrap_or(last);
            Err(ExpressionError::new(format!(
                "the pattern of `matches` is none: {why}"
            )))
        }
    }
}

/// `headers['x-a']` and `'x-a' in headers`.
fn check_header(call: &cel::common::ast::CallExpr) -> Result<(), ExpressionError> {
    let parts: Vec<&Expr> = call.args.iter().map(|part| &part.expr).collect();
    let (map, name) = match (&*call.func_name, parts.as_slice()) {
        ("_[_]" | "_[?_]", [map, name]) | ("@in", [name, map]) => (map, name),
        _ => return Ok(()),
    };
    match (map, literal(name)) {
        (Expr::Ident(map), Some(name)) if map == "headers" => check_header_name(name),
        _ => Ok(()),
    }
}

fn check_header_name(name: &str) -> Result<(), ExpressionError> {
    let lower = name.to_ascii_lowercase();
    if lower == name {
        return Ok(());
    }
    Err(
        ExpressionError::new(format!("`{name}` is never among the headers"))
            .hint(format!("their names are in lower case: `{lower}`")),
    )
}

/// Refuses what can be seen to be neither true nor false: nobody would ever pass.
fn check_truth(expr: &Expr) -> Result<(), ExpressionError> {
    let error = || {
        ExpressionError::new("the condition is neither true nor false")
            .hint("compare it with something, as in `method == 'GET'`")
    };
    let texts = |operand: &Expr| matches!(operand, Expr::Ident(name) if TEXTS.contains(&&**name));
    match expr {
        Expr::Literal(LiteralValue::Boolean(_)) => Ok(()),
        Expr::Literal(_) | Expr::List(_) | Expr::Map(_) => Err(error()),
        // no variable is a truth value
        Expr::Ident(name) if VARIABLES.contains(&&**name) => Err(error()),
        Expr::Select(select) if !select.test && texts(&select.operand.expr) => Err(error()),
        Expr::Call(call) => {
            let parts = || call.args.iter().map(|part| &part.expr);
            match &*call.func_name {
                "_&&_" | "_||_" | "!_" => parts().try_for_each(check_truth),
                "_?_:_" => parts().try_for_each(check_truth),
                "_[_]" if parts().next().is_some_and(texts) => Err(error()),
                "_+_" | "_-_" | "_*_" | "_/_" | "_%_" | "-_" | "size" | "string" | "int"
                | "uint" | "double" | "bytes" | "type" => Err(error()),
                _ => Ok(()),
            }
        }
        _ => Ok(()),
    }
}

fn check_function(name: &str) -> Result<(), ExpressionError> {
    // operators have names such as `_&&_` and `@in`
    let is_operator = !name.starts_with(|first: char| first.is_ascii_alphabetic());
    if is_operator || FUNCTIONS.contains(&name) {
        return Ok(());
    }
    let error = ExpressionError::new(format!("a condition knows no function `{name}`"));
    Err(match did_you_mean(name, FUNCTIONS) {
        Some(meant) => error.hint(format!("did you mean `{meant}`?")),
        None => error.hint(format!("there are `{}`", FUNCTIONS.join("`, `"))),
    })
}

fn text(text: &str) -> Value {
    Value::String(Arc::new(text.to_owned()))
}

fn or_null(value: Option<&str>) -> Value {
    value.map_or(Value::Null, text)
}

fn list(values: &[Arc<str>]) -> Value {
    Value::List(Arc::new(values.iter().map(|value| text(value)).collect()))
}

/// Of a repeated name the first counts, as with all keys and templates.
fn map(entries: impl Iterator<Item = (String, Value)>) -> Value {
    let mut map = HashMap::new();
    for (name, value) in entries {
        map.entry(Key::String(Arc::new(name))).or_insert(value);
    }
    Value::Map(Map { map: Arc::new(map) })
}

/// What the certificate says that the client showed, whatever other credential there is, for as long as it is valid; null
/// without one.
fn certificate(view: View<'_>) -> Value {
    let shown = view
        .facts
        .connection
        .tls
        .as_ref()
        .and_then(|tls| tls.client.as_deref());
    let valid = shown.filter(|shown| shown.is_valid_at(SystemTime::now()));
    valid.map_or(Value::Null, |valid| {
        let claims = valid.claims().iter();
        map(claims.map(|(name, value)| (name.clone(), json(value))))
    })
}

/// The values of a repeated field are joined with commas (RFC 9110 §5.2).
fn headers(view: View<'_>) -> Value {
    let headers = &view.request.headers;
    map(headers.keys().map(|name| {
        let values = headers.get_all(name).iter();
        let values: Vec<_> = values
            .map(|value| String::from_utf8_lossy(value.as_bytes()))
            .collect();
        (name.as_str().to_owned(), text(&values.join(", ")))
    }))
}

/// What the patterns of the route cut out of path and host.
fn params(view: View<'_>) -> Value {
    let facts = view.facts;
    let of_path = facts.path_captures.pairs(view.request.uri.path());
    let of_host = facts.host_captures.pairs(facts.host.as_str());
    map(of_path
        .chain(of_host)
        .map(|(name, value)| (name.to_owned(), text(value))))
}

fn json(value: &serde_json::Value) -> Value {
    use serde_json::Value as Json;
    match value {
        Json::Null => Value::Null,
        Json::Bool(value) => Value::Bool(*value),
        Json::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(number), _) => Value::Int(number),
            (None, Some(number)) => Value::UInt(number),
            (None, None) => number.as_f64().map_or(Value::Null, Value::Float),
        },
        Json::String(value) => text(value),
        Json::Array(members) => Value::List(Arc::new(members.iter().map(json).collect())),
        Json::Object(members) => map(members
            .iter()
            .map(|(name, value)| (name.clone(), json(value)))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exchange::fact::sample::Sample;
    use proptest::prelude::*;
    use serde_json::json;

    fn sample() -> Sample {
        let mut sample = Sample::get("/orders/7?page=2&page=3").header("x-tenant", "t1");
        sample.facts.identity = Some(Arc::new(Identity {
            method: "jwt",
            consumer: Some("acme".into()),
            groups: Arc::new(["admin".into(), "clerk".into()]),
            claims: Some(Arc::new(
                json!({"tenant": "t1", "level": 3, "ratio": 0.5, "realm": {"roles": ["a"]}})
                    .as_object()
                    .unwrap()
                    .clone(),
            )),
            ..Identity::default()
        }));
        sample
    }

    fn holds(source: &str) -> Result<bool, String> {
        let sample = sample();
        Expression::compile(source).unwrap().holds(sample.view())
    }

    fn refused(source: &str) -> String {
        let error = Expression::compile(source)
            .err()
            .unwrap_or_else(|| panic!("{source} is taken"));
        format!("{} | {}", error.message, error.hint.unwrap_or_default())
    }

    #[test]
    fn conditions_see_the_request_and_who_calls() {
        for source in [
            "method == 'GET' && path.startsWith('/orders/')",
            "host == 'example.com' && scheme == 'http' && listener == 'public'",
            "query.page == '2' && headers['x-tenant'] == claims.tenant",
            "'admin' in groups && consumer == 'acme' && plan == null",
            "claims.level >= 3 && claims.ratio < 1.0 && 'a' in claims.realm.roles",
            "groups.exists(g, g == 'clerk') && groups.all(g, size(g) > 3)",
            "has(claims.tenant) && !has(claims.other)",
            "path.matches('^/orders/[0-9]+$') && client_address == '192.0.2.1'",
            "size(scopes) == 0 && subject == null && size(cookies) == 0",
        ] {
            assert_eq!(holds(source), Ok(true), "{source}");
        }
        assert_eq!(holds("method == 'POST'"), Ok(false));
        // what has no answer is not allowed, and says why
        assert!(holds("claims.other == 'x'").is_err());
        assert!(holds("claims.level == 'x' || claims.nothing.at.all == 1").is_err());
        assert!(holds("claims.tenant").is_err());
    }

    #[test]
    fn an_error_says_nothing_of_what_was_compared() {
        let sample = Sample::get("/").header("authorization", "hunter2");
        for source in [
            "headers.authorization + 1 == 2",
            "headers.authorization > 5",
            "int(headers.authorization) == 1",
            "double(headers.authorization) == 1.0",
            "headers[headers.authorization] == 'a'",
            "{headers.authorization: 1}[1] == 1",
            "[headers.authorization][3] == 'a'",
            "[1][headers.authorization] == 1",
            "[headers.authorization] < [1]",
            "headers.authorization.all(x, x)",
            "headers + headers == headers",
            "'a' in headers.authorization",
        ] {
            let Ok(expression) = Expression::compile(source) else {
                continue;
            };
            let answer = expression.holds(sample.view());
            assert!(
                !format!("{answer:?}").contains("hunter2"),
                "{source}: {answer:?}"
            );
        }
        let missing = Expression::compile("claims.tenant == 'a'").unwrap();
        let sample = Sample::get("/");
        assert_eq!(
            missing.holds(sample.view()),
            Err("there is no `tenant`".into())
        );
    }

    #[test]
    fn what_can_not_be_meant_or_takes_too_long_is_refused_when_it_is_loaded() {
        assert!(refused("method = 'GET'").starts_with("it is not a condition in CEL"));
        assert!(refused("").starts_with("it is not a condition in CEL"));
        assert!(refused("claim.tenant == 'x'").contains("did you mean `claims`?"));
        assert!(refused("path.startswith('/')").contains("did you mean `startsWith`?"));
        assert!(refused("groups.exists(g, h == 'x')").contains("knows no `h`"));
        assert!(
            refused("groups.exists(g, scopes.exists(s, groups.exists(h, g == h)))")
                .contains("too long")
        );
        assert!(refused("groups.exists(g, g.matches('x'))").contains("too long"));
        assert!(refused("path.matches(query.pattern)").contains("must be written out"));
        assert!(refused("path.matches('[')").contains("unclosed character class"));
        assert!(refused("path.matches('(\\\\w{100}){50}')").contains("too large"));
        for source in [
            "'admin'",
            "path",
            "1 + 1",
            "headers.x",
            "headers['x']",
            "size(groups)",
            "method == 'GET' && path",
            "!consumer",
            "plan == 'a' ? groups : false",
            "[true]",
        ] {
            assert!(
                refused(source).contains("neither true nor false"),
                "{source}"
            );
        }
        for source in [
            "headers['X-A'] == 'a'",
            "'X-A' in headers",
            "headers.Host == 'a'",
        ] {
            assert!(refused(source).contains("lower case"), "{source}");
        }
        for source in [
            "has(claims.a)",
            "claims.admin",
            "true",
            "'x-a' in headers",
            "groups.exists(path, path == 'a')",
        ] {
            assert!(Expression::compile(source).is_ok(), "{source}");
        }
        assert!(refused(&format!("{}true", "!".repeat(300))).contains("nested too deeply"));
        assert!(refused(&format!("path == '{}'", "x".repeat(5000))).contains("at most"));
    }

    #[test]
    fn it_is_known_whether_a_condition_asks_who_calls() {
        assert!(
            !Expression::compile("method == 'GET'")
                .unwrap()
                .needs_an_identity()
        );
        assert!(
            Expression::compile("'admin' in groups")
                .unwrap()
                .needs_an_identity()
        );
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(source in "[a-z0-9()\\[\\]{}.,'\"=&|!<>?: +*/-]{0,60}") {
            if let Ok(expression) = Expression::compile(&source) {
                let _ = expression.holds(sample().view());
            }
        }

        #[test]
        fn neither_does_any_request(path in "/[!-~]{0,30}", name in "[a-z-]{1,9}", value in "[ -~]{0,30}") {
            let expression = Expression::compile("path.contains(query.a) || headers.x == params.y || int(query.b) > 3").unwrap();
            let mut sample = sample();
            if sample.request.set_raw_path(path.as_bytes()).is_ok() {
                let _ = sample.request.append_header(name, value.as_str());
                let _ = expression.holds(sample.view());
            }
        }
    }
}
