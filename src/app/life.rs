//! How long the process lives: until a signal, or until a part of it ends.

use std::any::Any;
use std::future::pending;
use std::io::Write as _;
use std::panic::AssertUnwindSafe;
use std::process::exit;
use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use futures::FutureExt;
use tokio::runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// How long running work may take to end after the first signal.
pub(super) const GRACE: Duration = Duration::from_secs(12);

/// How long letting go of the Lease may take after that.
pub(super) const RELEASE: Duration = Duration::from_secs(6);

/// When the process is cut off, whatever hangs: long enough for both, and soon
/// enough that it is over within the 20 s that are promised, on a busy machine
/// too.
pub(super) const AT_LATEST: Duration = Duration::from_secs(19);

const _: () = assert!(GRACE.as_secs() + RELEASE.as_secs() < AT_LATEST.as_secs());

/// Becomes true with the first SIGTERM or SIGINT; the second ends the process,
/// and so does time.
///
/// A thread of its own waits for them, and logs nothing: whatever keeps the
/// others from running, a log that nobody reads for one, does not keep the
/// process from ending.
pub(super) fn stop_signal() -> anyhow::Result<watch::Receiver<bool>> {
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot wait for signals")?;
    let (mut term, mut int) = {
        let _inside = runtime.enter();
        let term = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
        let int = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
        (term, int)
    };
    let (sender, receiver) = watch::channel(false);
    let listen = async move {
        let mut told = async || {
            tokio::select! {
                _ = term.recv() => {}
                _ = int.recv() => {}
            }
        };
        told().await;
        sender.send_replace(true);
        if timeout(AT_LATEST, told()).await.is_ok() {
            exit(130);
        }
        last_words();
        exit(1);
    };
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || runtime.block_on(listen))
        .context("cannot wait for signals")?;
    let mut stop = receiver.clone();
    tokio::spawn(async move {
        stopped(&mut stop).await;
        tracing::info!("stopping; a second signal ends at once");
    });
    Ok(receiver)
}

/// Says why the process is cut off, unless that hangs as well.
fn last_words() {
    let words = || {
        let seconds = AT_LATEST.as_secs();
        let _ = writeln!(
            std::io::stderr(),
            "error: the process did not end within {seconds} s and is cut off"
        );
    };
    if thread::Builder::new().spawn(words).is_ok() {
        thread::sleep(Duration::from_millis(100));
    }
}

/// Waits for the first signal.
pub(super) async fn stopped(stop: &mut watch::Receiver<bool>) {
    if stop.wait_for(|stop| *stop).await.is_err() {
        // The sender went with its task: no signal will come any more.
        pending::<()>().await;
    }
}

/// Lets the work run until the first signal, and end after it. An error names
/// the part that ended by itself, and how.
pub(super) async fn until_stopped(
    work: impl Future<Output = ()>,
    tasks: &mut Tasks,
    stop: &mut watch::Receiver<bool>,
) -> anyhow::Result<()> {
    let mut work = std::pin::pin!(whole("controller", work));
    let ended = tokio::select! {
        ended = &mut work => ended,
        ended = tasks.ended() => ended,
        () = stopped(stop) => {
            if timeout(GRACE, work).await.is_err() {
                tracing::warn!("running work did not end within {} s and is cut off", GRACE.as_secs());
            }
            return Ok(());
        }
    };
    // The signal ends the work as well, and may be noticed there first.
    if *stop.borrow() {
        return Ok(());
    }
    Err(anyhow::anyhow!(ended))
}

/// Tasks that run as long as the process does. One that ends is an error.
#[derive(Default)]
pub(super) struct Tasks(JoinSet<String>);

impl Tasks {
    /// Starts another.
    pub(super) fn add(
        &mut self,
        name: &'static str,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        self.0.spawn(whole(name, task));
    }

    /// How the first task ended that did.
    pub(super) async fn ended(&mut self) -> String {
        match self.0.join_next().await {
            Some(Ok(how)) => how,
            Some(Err(error)) => format!("a task was cut off ({error})"),
            None => pending().await,
        }
    }
}

/// Runs it to its end; says how it ended, by a panic too.
async fn whole(name: &'static str, task: impl Future<Output = ()>) -> String {
    match AssertUnwindSafe(task).catch_unwind().await {
        Ok(()) => format!("the {name} ended by itself"),
        Err(panic) => format!("the {name} panicked ({})", words(&*panic)),
    }
}

/// What the panic said.
fn words(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("without a word")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::{Instant, sleep};

    use super::*;

    // trap 15
    #[tokio::test]
    async fn a_task_that_ends_is_named_and_so_is_one_that_panics_with_its_words() {
        let mut tasks = Tasks::default();
        tasks.add("watch of Pods", pending());
        tasks.add("prober", async {});
        assert_eq!(tasks.ended().await, "the prober ended by itself");
        tasks.add("gauges", async { panic!("no {}", "gauge") });
        assert_eq!(tasks.ended().await, "the gauges panicked (no gauge)");
        tasks.add("ejector", async { panic!("ouch") });
        assert_eq!(tasks.ended().await, "the ejector panicked (ouch)");
        tasks.add("alerts", async { std::panic::panic_any(7) });
        assert_eq!(tasks.ended().await, "the alerts panicked (without a word)");
    }

    // trap 15
    #[tokio::test(start_paused = true)]
    async fn the_end_of_any_part_is_the_end_of_the_work_with_a_reason() {
        let (_sender, mut stop) = watch::channel(false);
        let mut tasks = Tasks::default();
        let ended = until_stopped(async {}, &mut tasks, &mut stop).await;
        assert_eq!(
            ended.unwrap_err().to_string(),
            "the controller ended by itself"
        );
        let ended = until_stopped(async { panic!("ouch") }, &mut tasks, &mut stop).await;
        assert_eq!(
            ended.unwrap_err().to_string(),
            "the controller panicked (ouch)"
        );
        tasks.add("watch of Pods", async {
            sleep(Duration::from_secs(60)).await;
            panic!("ouch")
        });
        let ended = until_stopped(pending(), &mut tasks, &mut stop).await;
        assert_eq!(
            ended.unwrap_err().to_string(),
            "the watch of Pods panicked (ouch)"
        );
    }

    // trap 16
    #[tokio::test(start_paused = true)]
    async fn work_that_hangs_is_cut_off_after_a_while_and_other_work_is_waited_for() {
        let (sender, mut stop) = watch::channel(false);
        let mut tasks = Tasks::default();
        sender.send_replace(true);
        let told = Instant::now();
        let ended = until_stopped(pending(), &mut tasks, &mut stop).await;
        assert!(ended.is_ok() && told.elapsed() == GRACE, "{ended:?}");
        let told = Instant::now();
        let work = sleep(Duration::from_secs(3));
        let ended = until_stopped(work, &mut tasks, &mut stop).await;
        assert!(ended.is_ok(), "{ended:?}");
        assert_eq!(told.elapsed(), Duration::from_secs(3));
    }
}
