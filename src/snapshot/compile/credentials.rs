//! The credentials of consumers: those in their entries and those in files, put together.

use super::Compiler;
use crate::config::Secret;
use crate::config::model::{ApiKey, BasicUser};
use crate::diagnostic::Diagnostic;
use crate::identity::credentials::digest::{Digest, DigestKey, WrittenDigest};
use crate::identity::credentials::lines::{self, KeyLine, LineError};
use crate::identity::credentials::password::PasswordHash;
use crate::identity::credentials::passwords::{self, Passwords, User};
use crate::identity::credentials::revoked::Revoked;
use crate::identity::credentials::table::{Builder, Clash, KEYS_MAX, Key, Owner, Table};
use crate::identity::credentials::{ApiKeys, key};
use crate::units::{Invalid, LargeFile, Span, Spanned, Timestamp};
use ahash::{AHashMap, AHashSet};
use std::sync::Arc;
use std::time::SystemTime;

/// The shortest key of digests, in bytes: what can't be tried out.
const DIGEST_KEY_MIN: usize = 16;

/// How many mistakes of one file are told.
const ERRORS_MAX: usize = 10;

/// What `auth` takes.
#[derive(Default)]
pub struct Credentials {
    pub api_keys: Option<Arc<ApiKeys>>,
    pub passwords: Option<Arc<Passwords>>,
}

/// Where a credential is written.
#[derive(Clone, Copy, Debug)]
enum Place {
    Entry(Span),
    Line { file: u32, line: u32 },
}

pub fn compile(compiler: &mut Compiler<'_>) {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let now = Timestamp::of_unix(now.unwrap_or_default().as_secs());
    compiler.credentials = Credentials {
        api_keys: api_keys(compiler, now).map(Arc::new),
        passwords: passwords(compiler).map(Arc::new),
    };
}

/// Credentials that no route takes were meant to open something.
pub fn check_used(compiler: &mut Compiler<'_>) {
    let config = compiler.config;
    let of_consumers = || {
        let consumers = config.consumers.iter();
        consumers.filter_map(|(_, consumer)| consumer.credentials.as_deref())
    };
    let files = &config.credential_files;
    let first = |files: &Option<crate::units::OneOrMany<Spanned<LargeFile>>>| {
        files
            .as_ref()
            .and_then(|files| files.first().map(Spanned::span))
    };
    let keys = of_consumers().find_map(|all| Some(all.api_key.as_ref()?.first()?.span()));
    let users = of_consumers().find_map(|all| Some(all.basic.as_ref()?.first()?.span()));
    let keys = keys.or(first(&files.api_key));
    for (at, what, method) in [
        (keys, "API keys", "api_key"),
        (users.or(first(&files.basic)), "passwords", "basic"),
    ] {
        if let Some(at) = at
            && !compiler.is_used("credential", method)
        {
            let message = format!("no route takes {what}");
            let hint = format!("take them with `policies: {{auth: {{{method}: on}}}}`");
            compiler.report(Diagnostic::error(message, at).hint(hint));
        }
    }
    if let Some(at) = first(&files.revoked)
        && keys.is_none()
    {
        let message = "a list of revoked keys has no effect where there are no keys";
        compiler.report(Diagnostic::error(message, at));
    }
    if let Some(digests) = &config.secrets.digests
        && keys.is_none()
    {
        let message = "`digests` keys no digest";
        let hint = "it has an effect beside API keys";
        compiler.report(Diagnostic::error(message, digests.span()).hint(hint));
    }
}

fn api_keys(compiler: &mut Compiler<'_>, now: Timestamp) -> Option<ApiKeys> {
    let config = compiler.config;
    let files = config.credential_files.api_key.as_ref();
    let inline = config.consumers.iter().filter_map(|(name, consumer)| {
        let keys = consumer.credentials.as_deref()?.api_key.as_ref()?;
        Some((name.as_str(), keys))
    });
    let inline: Vec<_> = inline.collect();
    let at = inline
        .iter()
        .find_map(|(_, keys)| keys.first().map(Spanned::span))
        .or_else(|| files?.first().map(Spanned::span))?;
    let Some(key) = digest_key(compiler, at) else {
        return Some(ApiKeys::none());
    };
    let mut collected = Collected {
        key,
        now,
        builder: Builder::default(),
    };
    for (consumer, keys) in inline {
        for key in keys.iter() {
            collected.entry(compiler, consumer, key);
        }
    }
    for (number, file) in (0..).zip(files.iter().flat_map(|files| files.iter())) {
        collected.file(compiler, file, number);
    }
    let revoked = config.credential_files.revoked.as_ref();
    for file in revoked.iter().flat_map(|files| files.iter()) {
        collected.revoked(compiler, file);
    }
    let Collected { key, builder, .. } = collected;
    let table: Table = builder.finish();
    Some(ApiKeys {
        key: key.key,
        table,
    })
}

/// The key of digests, and whether it will be the same tomorrow.
struct Keyed {
    key: DigestKey,
    lasts: bool,
}

fn digest_key(compiler: &mut Compiler<'_>, at: Span) -> Option<Keyed> {
    if let Some(secret) = &compiler.config.secrets.digests {
        let bytes = secret.expose().as_bytes();
        if bytes.len() < DIGEST_KEY_MIN {
            let message = format!("a key of fewer than {DIGEST_KEY_MIN} bytes can be guessed");
            let hint = "such as the output of `openssl rand -hex 32`";
            compiler.report(Diagnostic::error(message, secret.span()).hint(hint));
            return None;
        }
        return Some(Keyed {
            key: DigestKey::new(bytes),
            lasts: true,
        });
    }
    let made = match compiler.world.state.secret("digests") {
        Ok(made) => made,
        Err(error) => {
            let message = format!("no key for digests can be made: {error}");
            compiler.report(Diagnostic::error(message, at));
            return None;
        }
    };
    let kept = match &made.kept {
        Ok(path) => format!("it is kept in {}", path.display()),
        Err(why) => why.clone(),
    };
    let message = format!("no key for digests is set: the gateway makes its own; {kept}");
    let hint = "gateways that stand for one another need the same: `secrets: {digests: \"${file:/path}\"}`";
    compiler.report(Diagnostic::warning(message, at).hint(hint));
    Some(Keyed {
        key: DigestKey::new(&*made.bytes),
        lasts: made.kept.is_ok(),
    })
}

struct Collected {
    key: Keyed,
    now: Timestamp,
    builder: Builder<Place>,
}

impl Collected {
    /// A key of a consumer's entry.
    fn entry(&mut self, compiler: &mut Compiler<'_>, consumer: &str, written: &Spanned<ApiKey>) {
        let Some(digest) = self.digest(compiler, written) else {
            return;
        };
        let id = written.id.as_ref();
        if let Some(id) = id.filter(|id| !lines::is_word(id)) {
            let message = "this can't be the id of a key";
            let hint = "up to 128 visible ASCII characters without `#`, `,` and `=`";
            compiler.report(Diagnostic::error(message, id.span()).hint(hint));
            return;
        }
        let (from, until) = (written.not_before.as_deref(), written.expires.as_deref());
        if let (Some(from), Some(until), Some(at)) = (from, until, &written.expires)
            && from >= until
        {
            let message = "the key expires before it is valid";
            compiler.report(Diagnostic::error(message, at.span()));
            return;
        }
        if let Some(until) = &written.expires
            && **until <= self.now
        {
            let message = format!("the key expired on {}", **until);
            compiler.report(Diagnostic::warning(message, until.span()).code("expired"));
        }
        let key = Key {
            id: id.map_or(consumer, |id| id.as_str()),
            digest,
            owner: Owner {
                consumer,
                plan: None,
                groups: None,
            },
            not_before: from.copied(),
            expires: until.copied(),
        };
        let at = written.span();
        if let Err(clash) = self.builder.add(&key, Place::Entry(at)) {
            let diagnostic = Diagnostic::error(clash_message(compiler, clash, &key), at);
            let diagnostic = match clash {
                Clash::Id(_) => diagnostic.hint("give each of them an `id` of its own"),
                _ => diagnostic,
            };
            compiler.report(match clash {
                Clash::Id(Place::Entry(first)) | Clash::Digest(Place::Entry(first)) => {
                    diagnostic.related(first, "first written here")
                }
                _ => diagnostic,
            });
        }
    }

    fn digest(&self, compiler: &mut Compiler<'_>, written: &Spanned<ApiKey>) -> Option<Digest> {
        let report = |compiler: &mut Compiler<'_>, at, invalid: Invalid| {
            compiler.report(Diagnostic::error(invalid.to_string(), at));
        };
        match (&written.digest, &written.key) {
            (Some(digest), None) => match digest.expose().parse::<WrittenDigest>() {
                Ok(read) if self.is_foreign(&read) => {
                    report(compiler, digest.span(), foreign());
                    None
                }
                Ok(read) => Some(read.digest),
                Err(invalid) => {
                    report(compiler, digest.span(), invalid);
                    None
                }
            },
            (None, Some(secret)) => match check_key(secret) {
                Ok(()) => Some(self.key.key.digest(secret.expose().as_bytes())),
                Err(invalid) => {
                    report(compiler, secret.span(), invalid);
                    None
                }
            },
            (None, None) | (Some(_), Some(_)) => {
                let message = "a key is a `digest`, or the `key` itself out of a file";
                let hint = "`northgate key new` makes a key and its digest";
                report(compiler, written.span(), Invalid::new(message).hint(hint));
                None
            }
        }
    }

    /// Whether a digest was made under another key than the gateway's. Of one that ends with this process nobody can
    /// have made any.
    fn is_foreign(&self, digest: &WrittenDigest) -> bool {
        self.key.lasts && !self.key.key.made(digest)
    }

    /// The keys of a file.
    fn file(&mut self, compiler: &mut Compiler<'_>, file: &Spanned<LargeFile>, number: u32) {
        let Some(text) = text(compiler, file) else {
            return;
        };
        let mut errors = Errors::of(file);
        self.builder
            .reserve(memchr::memchr_iter(b'\n', text.as_bytes()).count());
        let mut plans: AHashSet<&str> = AHashSet::new();
        let mut expired: Option<(u32, usize)> = None;
        let mut lines = lines::keys(text).peekable();
        if lines.peek().is_none() {
            holds_nothing(compiler, file, "keys");
        }
        for line in lines {
            let KeyLine { line, digest, key } = match line {
                Ok(line) => line,
                Err(error) => {
                    errors.add(error);
                    continue;
                }
            };
            let mut wrong = |invalid: Invalid| errors.at_line(line, invalid);
            if self.is_foreign(&digest) {
                wrong(foreign());
                continue;
            }
            if let Some(plan) = key.owner.plan
                && plans.insert(plan)
                && let Some(invalid) = unknown_plan(compiler, plan)
            {
                wrong(invalid);
            }
            if let Err(clash) = self.builder.add(&key, Place::Line { file: number, line }) {
                wrong(Invalid::new(clash_message(compiler, clash, &key)));
            }
            if key.expires.is_some_and(|until| until <= self.now) {
                let (_, count) = expired.get_or_insert((line, 0));
                *count += 1;
            }
        }
        errors.report(compiler);
        if let Some((line, count)) = expired {
            let shown = file.0.path.display();
            let message = format!("{shown}:{line}:1: the key has expired{}", more(count));
            compiler.report(Diagnostic::warning(message, file.span()).code("expired"));
        }
    }

    /// Revokes the keys of a list.
    fn revoked(&mut self, compiler: &mut Compiler<'_>, file: &Spanned<LargeFile>) {
        let Some(text) = text(compiler, file) else {
            return;
        };
        let mut errors = Errors::of(file);
        let mut unknown: Option<(u32, usize)> = None;
        for id in lines::ids(text) {
            match id {
                Ok((line, id)) => {
                    if !self.builder.revoke(id) {
                        let (_, count) = unknown.get_or_insert((line, 0));
                        *count += 1;
                    }
                }
                Err(error) => errors.add(error),
            }
        }
        errors.report(compiler);
        if let Some((line, count)) = unknown {
            let shown = file.0.path.display();
            let message = format!("{shown}:{line}:1: no key has that id{}", more(count));
            compiler.report(Diagnostic::warning(message, file.span()));
        }
    }
}

/// The ids of a list of what is revoked; its mistakes are reported.
pub(super) fn revoked_ids(compiler: &mut Compiler<'_>, file: &Spanned<LargeFile>) -> Revoked {
    let Some(text) = text(compiler, file) else {
        return Revoked::default();
    };
    let mut errors = Errors::of(file);
    let found = lines::ids(text).filter_map(|id| match id {
        Ok((_, id)) => Some(id.into()),
        Err(error) => {
            errors.add(error);
            None
        }
    });
    let found = found.collect();
    errors.report(compiler);
    found
}

fn passwords(compiler: &mut Compiler<'_>) -> Option<Passwords> {
    let config = compiler.config;
    let mut users: AHashMap<Arc<str>, (User, Place)> = AHashMap::new();
    let mut any = false;
    for (consumer, entry) in &config.consumers {
        let written = entry
            .credentials
            .as_deref()
            .and_then(|all| all.basic.as_ref());
        for user in written.iter().flat_map(|users| users.iter()) {
            any = true;
            let consumer = consumer.shared();
            let name = user
                .user
                .as_ref()
                .map_or(consumer.clone(), |name| name.as_str().into());
            let Some(user) = self::user(compiler, user, consumer) else {
                continue;
            };
            let place = Place::Entry(user.1);
            if let Some((_, first)) = users.insert(name.clone(), (user.0, place)) {
                let message = format!("there are two users `{}`", name.escape_debug());
                let diagnostic = Diagnostic::error(message, user.1);
                compiler.report(match first {
                    Place::Entry(first) => diagnostic.related(first, "first written here"),
                    Place::Line { .. } => diagnostic,
                });
            }
        }
    }
    let files = config.credential_files.basic.as_ref();
    for (number, file) in (0..).zip(files.iter().flat_map(|files| files.iter())) {
        any = true;
        htpasswd(compiler, file, number, &mut users);
    }
    any.then(|| Passwords::new(users.into_iter().map(|(name, (user, _))| (name, user))))
}

/// A user of a consumer's entry, and where it is written.
fn user(
    compiler: &mut Compiler<'_>,
    written: &Spanned<BasicUser>,
    consumer: Arc<str>,
) -> Option<(User, Span)> {
    if let Some(name) = &written.user
        && let Err(invalid) = passwords::check_name(name)
    {
        compiler.report(Diagnostic::error(invalid.to_string(), name.span()));
        return None;
    }
    match PasswordHash::parse(written.hash.expose()) {
        Ok(hash) => {
            if let Some(weakness) = hash.effort().weakness() {
                compiler.report(Diagnostic::warning(weakness, written.hash.span()));
            }
            Some((User::new(consumer, hash), written.span()))
        }
        Err(invalid) => {
            compiler.report(Diagnostic::error(invalid.to_string(), written.hash.span()));
            None
        }
    }
}

fn htpasswd(
    compiler: &mut Compiler<'_>,
    file: &Spanned<LargeFile>,
    number: u32,
    users: &mut AHashMap<Arc<str>, (User, Place)>,
) {
    let Some(text) = text(compiler, file) else {
        return;
    };
    let mut errors = Errors::of(file);
    let mut weak: Option<(u32, String, usize)> = None;
    let mut lines = passwords::htpasswd(text).peekable();
    if lines.peek().is_none() {
        holds_nothing(compiler, file, "users");
    }
    for line in lines {
        let read = match line {
            Ok(read) => read,
            Err(error) => {
                errors.add(error);
                continue;
            }
        };
        if let Some(weakness) = read.hash.effort().weakness() {
            let (_, _, count) = weak.get_or_insert((read.line, weakness, 0));
            *count += 1;
        }
        let name: Arc<str> = read.name.into();
        let place = Place::Line {
            file: number,
            line: read.line,
        };
        let user = (User::new(name.clone(), read.hash), place);
        if let Some((_, first)) = users.insert(name, user) {
            let first = shown(compiler, first, |files| files.basic.as_ref());
            let message = format!("the user stands at {first} already");
            errors.at_line(read.line, Invalid::new(message));
        }
    }
    errors.report(compiler);
    if let Some((line, weakness, count)) = weak {
        let shown = file.0.path.display();
        let message = format!("{shown}:{line}:1: {weakness}{}", more(count));
        compiler.report(Diagnostic::warning(message, file.span()));
    }
}

/// A file that is cut off, or not written yet, looks the same as one that is meant to let nobody in.
fn holds_nothing(compiler: &mut Compiler<'_>, file: &Spanned<LargeFile>, what: &str) {
    let message = format!("`{}` holds no {what}", file.0.path.display());
    compiler.report(Diagnostic::warning(message, file.span()));
}

/// That a remark about one line goes for others too.
fn more(count: usize) -> String {
    match count {
        0 | 1 => String::new(),
        _ => format!(", and {} more", count - 1),
    }
}

fn text<'f>(compiler: &mut Compiler<'_>, file: &'f Spanned<LargeFile>) -> Option<&'f str> {
    match std::str::from_utf8(&file.0.text) {
        Ok(text) => Some(text),
        Err(_) => {
            let message = format!("`{}` is not UTF-8", file.0.path.display());
            compiler.report(Diagnostic::error(message, file.span()));
            None
        }
    }
}

/// The mistakes of one file: the first ones are told.
struct Errors<'f> {
    file: &'f Spanned<LargeFile>,
    told: Vec<LineError>,
    more: usize,
}

impl<'f> Errors<'f> {
    fn of(file: &'f Spanned<LargeFile>) -> Self {
        Self {
            file,
            told: Vec::new(),
            more: 0,
        }
    }

    fn add(&mut self, error: LineError) {
        match self.told.len() < ERRORS_MAX {
            true => self.told.push(error),
            false => self.more += 1,
        }
    }

    fn at_line(&mut self, line: u32, Invalid { message, hint }: Invalid) {
        self.add(LineError {
            line,
            column: 1,
            message,
            hint,
        });
    }

    fn report(self, compiler: &mut Compiler<'_>) {
        let shown = self.file.0.path.display();
        for error in self.told {
            let LineError { line, column, .. } = error;
            let message = format!("{shown}:{line}:{column}: {}", error.message);
            let diagnostic = Diagnostic::error(message, self.file.span());
            compiler.report(match error.hint {
                Some(hint) => diagnostic.hint(hint),
                None => diagnostic,
            });
        }
        if self.more > 0 {
            let message = format!("{shown}: {} more lines have mistakes", self.more);
            compiler.report(Diagnostic::error(message, self.file.span()));
        }
    }
}

fn foreign() -> Invalid {
    Invalid::new("the digest was made under another key: it would never be found").hint(
        "`northgate key hash` makes it anew of the API key, under the key of this gateway (`secrets: {digests: …}`)",
    )
}

fn check_key(secret: &Secret) -> Result<(), Invalid> {
    let length = secret.expose().len();
    if length < key::BYTES_MIN {
        let message = format!(
            "a key of fewer than {} bytes can be guessed",
            key::BYTES_MIN
        );
        return Err(Invalid::new(message).hint("`northgate key new` makes one"));
    }
    if length > key::BYTES_MAX {
        let message = format!("a key of more than {} bytes is not taken", key::BYTES_MAX);
        return Err(Invalid::new(message));
    }
    match key::form_of(secret.expose()) {
        key::Form::Damaged => {
            Err(Invalid::new("the key is not whole: its checksum is wrong")
                .hint("copy it once more"))
        }
        _ => Ok(()),
    }
}

fn unknown_plan(compiler: &Compiler<'_>, plan: &str) -> Option<Invalid> {
    let plans = &compiler.config.plans;
    if plans.get(plan).is_some() || compiler.is_broken("plans", plan) {
        return None;
    }
    let invalid = Invalid::new(format!("there is no plan `{plan}`"));
    Some(match crate::diagnostic::did_you_mean(plan, plans.names()) {
        Some(meant) => invalid.hint(format!("did you mean `{meant}`?")),
        None => invalid.hint("declare it: `plans: {name: {}}`"),
    })
}

fn clash_message(compiler: &Compiler<'_>, clash: Clash<Place>, key: &Key<'_>) -> String {
    let shown = |place| shown(compiler, place, |files| files.api_key.as_ref());
    match clash {
        Clash::Digest(first) => format!("the same key stands at {} already", shown(first)),
        Clash::Id(first) => format!("another key has the id `{}`: at {}", key.id, shown(first)),
        Clash::Terms(first) => format!(
            "consumer `{}` has another plan or other groups at {}",
            key.owner.consumer,
            shown(first)
        ),
        Clash::Full => format!("there are more than {KEYS_MAX} keys"),
    }
}

fn shown(
    compiler: &Compiler<'_>,
    place: Place,
    files: impl Fn(
        &crate::config::model::CredentialFiles,
    ) -> Option<&crate::units::OneOrMany<Spanned<LargeFile>>>,
) -> String {
    match place {
        Place::Entry(span) => compiler.sources.place(span).unwrap_or_default(),
        Place::Line { file, line } => {
            let files = files(&compiler.config.credential_files);
            let file = files.and_then(|files| files.get(file as usize));
            let path = file.map(|file| file.0.path.display().to_string());
            format!("{}:{line}:1", path.unwrap_or_default())
        }
    }
}
