//! Passwords: one that was verified before, and the hashes themselves.

use criterion::Criterion;
use northgate::identity::credentials::password::PasswordHash;
use northgate::identity::credentials::passwords::{Passwords, User};
use northgate::policy::auth::basic::verdicts::{Verdict, Verdicts};
use std::hint::black_box;
use std::sync::Arc;
use zeroize::Zeroizing;

pub fn bench(criterion: &mut Criterion) {
    let hash = PasswordHash::new(b"password", [7; 16]).expect("a hash");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let mut group = criterion.benchmark_group("basic");
    for count in [1, 100_000] {
        let names: Vec<Arc<str>> = (0..count).map(|at| format!("user-{at}").into()).collect();
        let user = |name: &Arc<str>| (name.clone(), User::new(name.clone(), hash.clone()));
        let passwords = Passwords::new(names.iter().map(user));
        let verdicts = Verdicts::new().expect("random numbers");
        let (_, known) = passwords.find("user-0").expect("a user");
        let asked = verdicts.question("user-0", b"password", Some(known));
        let password = Zeroizing::new(b"password".to_vec());
        let found = runtime.block_on(verdicts.find_out(&asked, hash.clone(), password));
        assert_eq!(found, Ok(Verdict::Right));
        group.bench_function(format!("cached/{count}"), |bencher| {
            bencher.iter(|| {
                let (_, user) = passwords.find(black_box("user-0")).expect("a user");
                let asked = verdicts.question("user-0", b"password", Some(user));
                assert_eq!(verdicts.known(&asked), Some(Verdict::Right));
            });
        });
    }
    group.sample_size(10);
    group.bench_function("uncached/argon2id_m19456_t2", |bencher| {
        bencher.iter(|| assert!(hash.matches(black_box(b"password"))));
    });
    let bcrypt = bcrypt::hash("password", 10).expect("a hash");
    let bcrypt = PasswordHash::parse(&bcrypt).expect("a hash");
    group.bench_function("uncached/bcrypt_10", |bencher| {
        bencher.iter(|| assert!(bcrypt.matches(black_box(b"password"))));
    });
    group.finish();
}
