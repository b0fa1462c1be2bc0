//! How do tests share one cluster? The runner enters the namespace, starts the
//! rig for the first test that runs, hands it to each, and drops it at the end.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use k8s_openapi::api::rbac::v1::ClusterRoleBinding;
use kube::Api;
use kube::api::ListParams;
use libtest_mimic::{Arguments, Failed, Trial};
use serde_json::json;
use tokio::runtime::Runtime;
use tokio::sync::{OnceCell, RwLock};
use tokio::time::Instant;

use super::audit::Mark;
use super::generated::Generated;
use super::rig::Rig;
use super::rights::Grants;
use super::stack;
use super::{namespace, operator};

/// What a test comes down to; use [`tests!`](crate::tests) to make it.
pub type Body = for<'a> fn(&'a Rig) -> Pin<Box<dyn Future<Output = Result<()>> + 'a>>;

/// How many tests run at once, unless told otherwise.
const AT_ONCE: usize = 8;

/// No test takes nearly as long; it bounds a hang. `TEST_LIMIT` names other
/// seconds, for what is asked to run long.
const LIMIT: Duration = Duration::from_secs(300);

/// A test against the shared cluster.
#[derive(Clone, Copy)]
pub struct Test {
    pub name: &'static str,
    pub body: Body,
    pub turn: Turn,
}

/// Which other tests may run beside it in one cluster?
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Turn {
    /// All that may, too.
    Together,
    /// None, and nothing of `stack::shared`: it disturbs the shared parts (stops
    /// istiod, say), or runs an operator of its own. It takes about so many
    /// seconds, by which the tests are spread over the clusters.
    Alone { seconds: u32 },
}

/// What a test that runs alone takes, where its list does not say.
pub const SHORT: u32 = 10;

impl Test {
    /// Its name without the binary's, which says nothing.
    fn name(&self) -> &'static str {
        self.name
            .split_once("::")
            .map_or(self.name, |(_, rest)| rest)
    }
}

/// Lists the tests of a module: `tests![one, another; alone: a_disturbing_one,
/// one_that_takes_a_minute(60)]`. Seconds are worth saying from 20 on; with
/// `TEST_TIMES=1` each says what it took.
#[macro_export]
macro_rules! tests {
    (
        $($name:ident),* $(,)?
        $(; alone: $($alone:ident $(($seconds:literal))?),+ $(,)?)?
    ) => {
        pub(crate) fn tests() -> Vec<$crate::support::runner::Test> {
            use $crate::support::runner::Turn;
            vec![
                $($crate::tests!(@one $name, Turn::Together),)*
                $($($crate::tests!(@one $alone, Turn::Alone {
                    seconds: $crate::tests!(@seconds $($seconds)?)
                }),)+)?
            ]
        }
    };
    (@seconds) => { $crate::support::runner::SHORT };
    (@seconds $seconds:literal) => { $seconds };
    (@one $name:ident, $turn:expr) => {
        $crate::support::runner::Test {
            name: concat!(module_path!(), "::", stringify!($name)),
            body: |rig| Box::pin($name(rig)),
            turn: $turn,
        }
    };
}

struct Shared {
    // Each test runs on this runtime, from the runner's threads.
    runtime: Runtime,
    rig: OnceCell<Result<Rig, String>>,
    generated: OnceLock<Generated>,
    turn: RwLock<()>,
}

impl Shared {
    async fn start(&self) -> Result<Rig, String> {
        let rig = Rig::start().await.map_err(|error| format!("{error:#}"))?;
        self.generated.get_or_init(|| Generated::watch(&rig.client));
        Ok(rig)
    }

    /// Looks at all that the tests made the product write.
    async fn expect_clean(&self) -> Result<()> {
        if let (Some(Ok(rig)), Some(generated)) = (self.rig.get(), self.generated.get()) {
            let count = generated.expect_clean(rig).await?;
            eprintln!("istioctl analyze has nothing to say about {count} objects of ours");
            expect_rights(rig).await?;
        }
        Ok(())
    }
}

/// Looks at all that operators asked the API server for: no test made them need
/// what rbac/ does not grant. (That each right is used, one test shows.)
async fn expect_rights(rig: &Rig) -> Result<()> {
    let entries = rig.api.audit.since(Mark::START, &rig.client).await?;
    let users = operators(rig).await?;
    let ours = entries
        .iter()
        .filter(|entry| users.contains(&entry.user.username));
    let grants = Grants::of_the_operator()?;
    let (used, beyond) = grants.compare(ours);
    let accounts = users.iter().filter_map(|user| user.rsplit(':').next());
    let (_, beyond) = Grants::of_installations(accounts)?.compare(beyond);
    if let Some(first) = beyond.first() {
        bail!(
            "the operator asked for what rbac/ does not grant, {} times, first {first:?}",
            beyond.len()
        );
    }
    eprintln!(
        "{} accounts of operators made use of {} of the {} rights in rbac/, and asked for no other",
        users.len(),
        used.len(),
        grants.0.len()
    );
    Ok(())
}

/// The operator's own account, and those that were given the same rights for a
/// second replica or installation.
async fn operators(rig: &Rig) -> Result<BTreeSet<String>> {
    let bindings = Api::<ClusterRoleBinding>::all(rig.client.clone());
    let bindings = bindings.list(&ListParams::default()).await?;
    let ours = bindings
        .into_iter()
        .filter(|binding| binding.role_ref.name == operator::ACCOUNT);
    let subjects = ours.flat_map(|binding| binding.subjects.unwrap_or_default());
    let here = subjects.filter(|subject| subject.namespace.as_deref() == Some(operator::NAMESPACE));
    let mut users: BTreeSet<_> = here
        .map(|subject| {
            let namespace = operator::NAMESPACE;
            format!("system:serviceaccount:{namespace}:{}", subject.name)
        })
        .collect();
    users.insert(operator::USER.to_owned());
    Ok(users)
}

/// The `main` of a test binary with a cluster.
pub fn main(tests: Vec<Test>) -> ExitCode {
    match run(tests) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(mut tests: Vec<Test>) -> Result<ExitCode> {
    let mut arguments = Arguments::from_args();
    // They wait more than they compute.
    arguments.test_threads.get_or_insert(AT_ONCE);
    if !arguments.list && namespace::inside().is_none() {
        return enter(&arguments, &tests);
    }
    if let Some(part) = namespace::part() {
        tests = in_parts(&tests)
            .remove(part.as_str())
            .context("no such part")?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    if !arguments.list {
        runtime.block_on(async {
            namespace::end_on_signals()?;
            namespace::set_up_loopback().await
        })?;
    }
    let shared = Arc::new(Shared {
        runtime,
        rig: OnceCell::new(),
        generated: OnceLock::new(),
        turn: RwLock::new(()),
    });
    // Those that share come first, so that what they share starts once.
    tests.sort_by_key(|test| test.turn);
    let trials = tests
        .into_iter()
        .map(|test| trial(test, shared.clone()))
        .collect();
    let conclusion = libtest_mimic::run(&arguments, trials);
    let clean = shared.runtime.block_on(shared.expect_clean());
    clean.context("an object that the product wrote in these tests is not clean")?;
    Ok(conclusion.exit_code())
}

/// Starts a cluster for each part of the tests that has any to run.
fn enter(arguments: &Arguments, tests: &[Test]) -> Result<ExitCode> {
    let wanted = |part: &(&str, Vec<Test>)| part.1.iter().any(|test| is_wanted(arguments, test));
    let parts: Vec<_> = in_parts(tests)
        .into_iter()
        .filter(wanted)
        .map(|(part, _)| part)
        .collect();
    match parts.as_slice() {
        [] | [_] => namespace::enter(),
        parts => namespace::enter_for_each(parts),
    }
}

/// The tests by cluster. Those that share one are together; those that need one
/// alone, which wait more than they compute, go wherever there is least to do.
fn in_parts(tests: &[Test]) -> BTreeMap<&'static str, Vec<Test>> {
    // What all that are together take, side by side, in seconds.
    const TOGETHER: u32 = 150;
    let (together, mut alone): (Vec<Test>, Vec<Test>) = tests
        .iter()
        .copied()
        .partition(|test| test.turn == Turn::Together);
    let shared = if together.is_empty() { 0 } else { TOGETHER };
    let mut parts = [
        ("alone-1", 0, Vec::new()),
        ("alone-2", 0, Vec::new()),
        ("alone-3", 0, Vec::new()),
        ("alone-4", 0, Vec::new()),
        ("alone-5", 0, Vec::new()),
        ("alone-6", 0, Vec::new()),
        ("together", shared, together),
    ];
    // The longest first, each to where there is least to do.
    alone.sort_by_key(|test| std::cmp::Reverse(test.turn));
    for test in alone {
        let part = parts.iter_mut().min_by_key(|(_, seconds, _)| *seconds);
        if let (Some((_, sum, tests)), Turn::Alone { seconds }) = (part, test.turn) {
            *sum += seconds;
            tests.push(test);
        }
    }
    parts.map(|(name, _, tests)| (name, tests)).into()
}

/// Whether the arguments leave the test, but for the finer points of theirs.
fn is_wanted(arguments: &Arguments, test: &Test) -> bool {
    let named = |filter: &String| test.name().contains(filter.as_str());
    arguments.filter.as_ref().is_none_or(named) && !arguments.skip.iter().any(named)
}

/// How long it may take to remove what a test left.
const TIDIED: Duration = Duration::from_secs(30);

fn limit() -> Result<Duration> {
    let Ok(seconds) = std::env::var("TEST_LIMIT") else {
        return Ok(LIMIT);
    };
    let seconds = seconds.parse().context("TEST_LIMIT is no number")?;
    Ok(Duration::from_secs(seconds))
}

fn trial(test: Test, shared: Arc<Shared>) -> Trial {
    Trial::test(test.name(), move || {
        let outcome = shared.runtime.block_on(async {
            let rig = shared
                .rig
                .get_or_init(|| shared.start())
                .await
                .as_ref()
                .map_err(|error| anyhow::anyhow!("the cluster did not start: {error}"))?;
            let (_together, _alone);
            if test.turn != Turn::Together {
                _alone = shared.turn.write().await;
                stack::stop_shared()
                    .await
                    .context("cannot stop what the other tests share")?;
            } else {
                _together = shared.turn.read().await;
            }
            let limit = limit()?;
            let started = Instant::now();
            let ended = tokio::time::timeout(limit, (test.body)(rig))
                .await
                .with_context(|| format!("the test was cut off after {limit:?}"));
            if let Turn::Alone { seconds } = test.turn {
                if std::env::var_os("TEST_TIMES").is_some() {
                    let took = started.elapsed().as_secs();
                    eprintln!("{} took {took} s of {seconds}", test.name());
                }
                // The next one's operator would look after them, and count them; and
                // wait for a leader that was killed.
                let tidy = async {
                    stack::forget_bindings(rig).await?;
                    operator::free_lease(&rig.client, json!({})).await
                };
                let tidied = tokio::time::timeout(TIDIED, tidy).await;
                ended??;
                return tidied.context("what the test left could not be removed")?;
            }
            ended?
        });
        outcome.map_err(|error| {
            let name = test.name();
            // That it failed is said by its result in any case.
            let _ = namespace::tell_failure(&format!("{name}: {error:#}"));
            Failed::from(format!("{error:#}"))
        })
    })
}
