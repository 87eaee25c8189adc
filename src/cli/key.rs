//! `northgate key`: makes API keys, digests of keys and hashes of passwords, and says whom they let in.
//!
//! A key is printed once, and nowhere kept. Keys and passwords are read from stdin, so that they are in no history of a
//! shell and in no list of processes.

use super::{ConfigArgument, EXIT_CONFIG, Format};
use crate::boot::configuration;
use crate::config;
use crate::identity::credentials::digest::DigestKey;
use crate::identity::credentials::key::{self, Form};
use crate::identity::credentials::lines;
use crate::identity::credentials::password::{PASSWORD_MAX, PasswordHash};
use crate::identity::credentials::passwords::Passwords;
use crate::identity::{Identity, Reason};
use crate::snapshot::Snapshot;
use crate::state::{self, State};
use crate::units::{Duration, Timestamp};
use rustls::crypto::aws_lc_rs;
use serde_json::json;
use std::io::{IsTerminal, Read};
use std::process::ExitCode;
use std::time::SystemTime;
use zeroize::Zeroizing;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Make a key. It is printed once: give it to its consumer, and its digest to the gateway.
    New(NewArguments),
    /// Print the digest of a key that is read from stdin, or the hash of a password.
    Hash(HashArguments),
    /// Say whether a configuration takes the key (or password) that is read from stdin, and who calls with it. Exits
    /// with 1 if it does not.
    Verify(VerifyArguments),
}

#[derive(Debug, clap::Args)]
struct NewArguments {
    #[command(flatten)]
    config: ConfigArgument,
    /// What it begins with, so that whoever finds it knows whose it is.
    #[arg(long, default_value = key::PREFIX)]
    prefix: String,
    /// Whose it is: prints a line for a file of credentials too.
    #[arg(long)]
    consumer: Option<String>,
    /// What it is called in logs and lists of revoked keys: the name of the consumer by default.
    #[arg(long, requires = "consumer")]
    id: Option<String>,
    /// When it ends: a day such as `2027-03-01`, or after a time such as `90d`.
    #[arg(long, requires = "consumer", value_parser = moment)]
    expires: Option<Timestamp>,
    /// How to print it.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

#[derive(Debug, clap::Args)]
struct HashArguments {
    #[command(flatten)]
    config: ConfigArgument,
    /// It is a password: print its argon2id hash, which needs no configuration.
    #[arg(long)]
    password: bool,
    /// How to print it.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

#[derive(Debug, clap::Args)]
struct VerifyArguments {
    #[command(flatten)]
    config: ConfigArgument,
    /// It is the password of this user of `basic`.
    #[arg(long)]
    user: Option<String>,
    /// How to print it.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

pub fn run(arguments: Arguments) -> ExitCode {
    crate::boot::install_crypto();
    let done = match arguments.command {
        Command::New(arguments) => new(&arguments),
        Command::Hash(arguments) => hash(&arguments),
        Command::Verify(arguments) => verify(&arguments),
    };
    done.unwrap_or_else(|code| code)
}

fn new(arguments: &NewArguments) -> Result<ExitCode, ExitCode> {
    let digest_key = digest_key(&arguments.config)?;
    let mut random = Zeroizing::new(Vec::new());
    let key = key::generate(&arguments.prefix, || {
        if random.is_empty() {
            random.extend_from_slice(&*fresh().ok()?);
        }
        random.pop()
    });
    let key = key.map_err(|invalid| super::fail(2, invalid))?;
    for (word, what) in [(&arguments.consumer, "--consumer"), (&arguments.id, "--id")] {
        if word.as_deref().is_some_and(|word| !lines::is_word(word)) {
            let message =
                format!("{what} takes up to 128 visible ASCII characters without `#`, `,` and `=`");
            return Err(super::fail(2, message));
        }
    }
    if let Some(until) = arguments.expires.filter(|until| *until <= now()) {
        return Err(super::fail(
            2,
            format!("a key that expires on {until} is over already"),
        ));
    }
    let digest = digest_key.written(digest_key.digest(key.as_bytes()));
    let line = arguments.consumer.as_ref().map(|consumer| {
        let id = arguments.id.as_ref().unwrap_or(consumer);
        let until = arguments.expires.map(|until| until.to_string());
        format!(
            "{id} {digest} {consumer} {}",
            until.as_deref().unwrap_or("-")
        )
    });
    let text = match (arguments.format, line) {
        (Format::Json, line) => {
            let mut shown = json!({"key": *key, "digest": digest.to_string()});
            if let (Some(line), Some(fields)) = (line, shown.as_object_mut()) {
                fields.insert("line".into(), line.into());
            }
            format!("{shown:#}\n")
        }
        (Format::Text, None) => format!("key:    {}\ndigest: {digest}\n", *key),
        (Format::Text, Some(line)) => {
            format!("key:    {}\ndigest: {digest}\nline:   {line}\n", *key)
        }
    };
    let text = Zeroizing::new(text);
    if arguments.format == Format::Text {
        super::complain("This is the only time that the key is shown.\n");
    }
    Ok(super::print(&text, 0))
}

fn hash(arguments: &HashArguments) -> Result<ExitCode, ExitCode> {
    if arguments.password {
        let password = secret("password")?;
        check_password(&password).map_err(|message| super::fail(1, message))?;
        let salt = fresh().map_err(|error| super::fail(1, error))?;
        let salt = salt.first_chunk::<16>().copied().unwrap_or_default();
        let hash = PasswordHash::new(password.as_bytes(), salt);
        let hash = hash.ok_or_else(|| super::fail(1, "the password can't be hashed"))?;
        return Ok(shown(arguments.format, "hash", &hash.to_string()));
    }
    let digest_key = digest_key(&arguments.config)?;
    let key = secret("key")?;
    if key.len() < key::BYTES_MIN {
        let message = format!(
            "a key of fewer than {} bytes can be guessed",
            key::BYTES_MIN
        );
        return Err(super::fail(
            1,
            format!("{message}\nhint: `northgate key new` makes one"),
        ));
    }
    if key.len() > key::BYTES_MAX {
        let message = format!("a key of more than {} bytes is not taken", key::BYTES_MAX);
        return Err(super::fail(1, message));
    }
    if key::form_of(&key) == Form::Damaged {
        return Err(super::fail(
            1,
            "the key is not whole: its checksum is wrong",
        ));
    }
    let digest = digest_key.written(digest_key.digest(key.as_bytes()));
    Ok(shown(arguments.format, "digest", &digest.to_string()))
}

fn shown(format: Format, name: &str, value: &str) -> ExitCode {
    let text = match format {
        Format::Text => format!("{value}\n"),
        Format::Json => format!("{:#}\n", json!({ name: value })),
    };
    super::print(&text, 0)
}

fn verify(arguments: &VerifyArguments) -> Result<ExitCode, ExitCode> {
    let checked = configuration::check(&arguments.config.config).map_err(|refused| {
        let text = crate::boot::rendered(&refused.diagnostics, &refused.sources);
        super::complain(&text);
        ExitCode::from(EXIT_CONFIG)
    })?;
    let secret = secret(match arguments.user {
        Some(_) => "password",
        None => "key",
    })?;
    let snapshot = &checked.snapshot;
    let verified = match &arguments.user {
        Some(user) => log_in(snapshot.passwords.as_deref(), user, &secret),
        None => by_key(snapshot, &secret),
    };
    let identity = verified.map(|identity| complete(identity, &checked.loaded.config));
    Ok(match arguments.format {
        Format::Json => verdict_json(&identity),
        Format::Text => verdict_text(&identity, &secret),
    })
}

fn by_key(snapshot: &Snapshot, key: &str) -> Result<Identity, Reason> {
    let keys = snapshot.api_keys.as_ref().ok_or(Reason::KeyUnknown)?;
    keys.verify(key.as_bytes(), now())
}

fn log_in(passwords: Option<&Passwords>, name: &str, password: &str) -> Result<Identity, Reason> {
    let found = passwords.and_then(|passwords| passwords.find(name));
    let (name, user) = found.ok_or(Reason::BasicUser)?;
    if check_password(password).is_err() || !user.hash.matches(password.as_bytes()) {
        return Err(Reason::BasicPassword);
    }
    Ok(Identity {
        method: "basic",
        credential: Some(name.clone()),
        consumer: Some(user.consumer.clone()),
        subject: Some(name.clone()),
        ..Identity::default()
    })
}

/// What the entry of a consumer says beats what a file says.
fn complete(mut identity: Identity, config: &config::Config) -> Identity {
    let named = identity.consumer.as_deref();
    let entry = named.and_then(|name| config.consumers.get(name));
    if let Some(plan) = entry.and_then(|entry| entry.plan.as_ref()) {
        identity.plan = Some(plan.as_str().into());
    }
    if let Some(groups) = entry.and_then(|entry| entry.groups.as_ref()) {
        identity.groups = groups.iter().map(|group| group.as_str().into()).collect();
    }
    identity
}

fn verdict_json(verified: &Result<Identity, Reason>) -> ExitCode {
    match verified {
        Ok(identity) => {
            let mut shown = json!({
                "accepted": true,
                "method": identity.method,
                "credential": identity.credential,
                "consumer": identity.consumer,
                "plan": identity.plan,
                "groups": *identity.groups,
                "expires": expires(identity),
            });
            if let Some(fields) = shown.as_object_mut() {
                fields.retain(|_, value| !value.is_null());
            }
            super::print(&format!("{shown:#}\n"), 0)
        }
        Err(reason) => {
            let shown =
                json!({"accepted": false, "code": reason.code(), "reason": reason.description()});
            super::print(&format!("{shown:#}\n"), 1)
        }
    }
}

fn verdict_text(verified: &Result<Identity, Reason>, secret: &str) -> ExitCode {
    let identity = match verified {
        Ok(identity) => identity,
        Err(reason) => {
            let damaged = key::form_of(secret) == Form::Damaged;
            let hint = match damaged {
                true => " Its checksum is wrong: it was not copied whole.",
                false => "",
            };
            let text = format!(
                "refused: {}: {}{hint}\n",
                reason.code(),
                reason.description()
            );
            return super::print(&text, 1);
        }
    };
    let mut text = String::from("accepted\n");
    let mut line = |name: &str, value: Option<&str>| {
        if let Some(value) = value {
            text.push_str(&format!("  {name:<11} {value}\n"));
        }
    };
    line("consumer", identity.consumer.as_deref());
    line("credential", identity.credential.as_deref());
    line("plan", identity.plan.as_deref());
    let groups = identity.groups.join(", ");
    line("groups", Some(&*groups).filter(|groups| !groups.is_empty()));
    line("expires", expires(identity).as_deref());
    super::print(&text, 0)
}

fn expires(identity: &Identity) -> Option<String> {
    let since = identity.expires_at?.duration_since(SystemTime::UNIX_EPOCH);
    Some(Timestamp::of_unix(since.ok()?.as_secs()).to_string())
}

/// The key of digests: as the configuration sets it, else the one in the state directory, which is made if there is none.
fn digest_key(argument: &ConfigArgument) -> Result<DigestKey, ExitCode> {
    let path = &argument.config;
    // what else is wrong with it has nothing to do with digests, and the file of keys may be what is still to be made
    let (config, failure) = match config::load(path) {
        Ok(loaded) => (Some(loaded.config), None),
        Err(failure) => {
            let text = crate::boot::rendered(&failure.diagnostics, &failure.sources);
            (failure.partial, Some(text))
        }
    };
    let Some(config) = config else {
        super::complain(&failure.unwrap_or_default());
        let message = format!(
            "digests are made under the key of a gateway: `{}` can't be read, name another file with `-c`",
            path.display()
        );
        return Err(super::fail(EXIT_CONFIG, message));
    };
    if let Some(secret) = &config.secrets.digests {
        return Ok(DigestKey::new(secret.expose().as_bytes()));
    }
    if failure.is_some_and(|text| text.contains("digests")) {
        let message = "`secrets: {digests: …}` can't be read: see `northgate check`";
        return Err(super::fail(EXIT_CONFIG, message));
    }
    let made = State::kept_in(state::directory()).secret("digests");
    let made = made.map_err(|error| super::fail(1, error))?;
    match &made.kept {
        Ok(path) => super::complain(&format!(
            "The digest is good for a gateway that keeps its key in {}; for any other, set `secrets: {{digests: …}}`.\n",
            path.display()
        )),
        Err(why) => {
            let message = format!("no key for digests is set, and none can be kept: {why}");
            return Err(super::fail(1, message));
        }
    }
    Ok(DigestKey::new(&*made.bytes))
}

/// What stands on stdin, without the end of the line.
fn secret(what: &str) -> Result<Zeroizing<String>, ExitCode> {
    let stdin = std::io::stdin();
    if stdin.is_terminal() {
        super::complain(&format!("{what}, then Enter and Ctrl-D: "));
    }
    let mut text = Zeroizing::new(String::with_capacity(8192));
    let read = stdin.lock().take(4097).read_to_string(&mut text);
    read.map_err(|error| super::fail(1, format!("can't read the {what} from stdin: {error}")))?;
    let line = text.strip_suffix('\n').unwrap_or(&text);
    let line = line.strip_suffix('\r').unwrap_or(line);
    if line.is_empty() || line.len() > 4096 || line.contains(['\n', '\r']) {
        let message = format!("stdin is to hold one {what}, and nothing else");
        return Err(super::fail(2, message));
    }
    Ok(Zeroizing::new(line.to_owned()))
}

fn check_password(password: &str) -> Result<(), String> {
    if password.len() > PASSWORD_MAX {
        return Err(format!(
            "a password of more than {PASSWORD_MAX} bytes is not taken"
        ));
    }
    if password.contains(char::is_control) {
        return Err("a password has no control characters (RFC 7617 §2)".to_owned());
    }
    Ok(())
}

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    Timestamp::of_unix(since.unwrap_or_default().as_secs())
}

/// A moment, or a time from now.
fn moment(text: &str) -> Result<Timestamp, String> {
    if let Ok(after) = text.parse::<Duration>() {
        return Ok(Timestamp::of_unix(
            now().unix().saturating_add(after.as_secs()),
        ));
    }
    text.parse::<Timestamp>()
        .map_err(|invalid| match invalid.hint {
            Some(hint) => format!("{}: {hint}, or a time such as `90d`", invalid.message),
            None => invalid.message,
        })
}

fn fresh() -> Result<Zeroizing<[u8; 64]>, String> {
    let mut bytes = Zeroizing::new([0; 64]);
    let provider = aws_lc_rs::default_provider();
    let filled = provider.secure_random.fill(&mut *bytes);
    filled.map_err(|_| "the system gives no random numbers".to_owned())?;
    Ok(bytes)
}
