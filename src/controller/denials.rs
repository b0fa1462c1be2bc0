//! Which writes did the API server deny a moment ago? Where a right is missing,
//! each of a thousand bindings would find out for itself, in the same second;
//! one of them is enough.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::error::WriteError;

/// How long a denial stands for others. No longer than the pauses between the
/// tries of who finds out for all, so that these are not held back.
const STANDS: Duration = Duration::from_secs(1);

/// What one right, or two, are about.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Subject {
    /// The kind, as audit records name it.
    pub kind: &'static str,
    /// Whether an object is to be made, which takes a right of its own.
    pub creates: bool,
    /// Where. A right in one namespace says nothing about another.
    pub namespace: String,
}

/// The last denials.
#[derive(Debug, Default)]
pub struct Denials(Mutex<HashMap<Subject, Denied>>);

#[derive(Debug)]
struct Denied {
    at: Instant,
    /// The object that it was about.
    name: String,
    message: String,
}

impl Denials {
    /// What the server would say now to a write of this object, where it just
    /// said so to another.
    pub fn of(&self, subject: &Subject, name: &str) -> Result<(), WriteError> {
        let denials = self.lock();
        let Some(denied) = denials.get(subject).filter(|d| d.at.elapsed() < STANDS) else {
            return Ok(());
        };
        let named = |name: &str| format!("\"{name}\" is forbidden");
        let message = denied
            .message
            .replacen(&named(&denied.name), &named(name), 1);
        Err(WriteError::Denied(message))
    }

    /// The server answered to the write of this object.
    pub fn answered<T>(&self, subject: &Subject, name: &str, answer: &Result<T, WriteError>) {
        match answer {
            Err(WriteError::Denied(message)) => {
                let denied = Denied {
                    at: Instant::now(),
                    name: name.to_owned(),
                    message: message.clone(),
                };
                let mut denials = self.lock();
                denials.retain(|_, denied| denied.at.elapsed() < STANDS);
                denials.insert(subject.clone(), denied);
            }
            Ok(_) => {
                self.lock().remove(subject);
            }
            // Anything else may have come before the right was asked for.
            Err(_) => {}
        }
    }

    /// Each value in here is whole by itself, so a poisoned lock is used on.
    fn lock(&self) -> MutexGuard<'_, HashMap<Subject, Denied>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    fn subject(kind: &'static str, creates: bool, namespace: &str) -> Subject {
        Subject {
            kind,
            creates,
            namespace: namespace.to_owned(),
        }
    }

    fn denied(name: &str) -> WriteError {
        WriteError::Denied(format!("vs \"{name}\" is forbidden: User \"u\" cannot x"))
    }

    #[tokio::test(start_paused = true)]
    async fn a_denial_stands_for_a_second_for_the_same_right_and_no_other() {
        let denials = Denials::default();
        let here = subject("VirtualService", false, "shop");
        denials.answered::<()>(&here, "a", &Err(denied("a")));
        assert_eq!(denials.of(&here, "b"), Err(denied("b")));
        for other in [
            subject("DestinationRule", false, "shop"),
            subject("VirtualService", true, "shop"),
            subject("VirtualService", false, "billing"),
        ] {
            assert_eq!(denials.of(&other, "b"), Ok(()), "{other:?}");
        }
        advance(STANDS - Duration::from_millis(1)).await;
        assert!(denials.of(&here, "b").is_err());
        advance(Duration::from_millis(1)).await;
        assert_eq!(denials.of(&here, "b"), Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_that_comes_about_ends_it_and_one_that_fails_otherwise_does_not() {
        let denials = Denials::default();
        let here = subject("VirtualService", false, "shop");
        denials.answered::<()>(&here, "a", &Err(denied("a")));
        denials.answered::<()>(&here, "b", &Err(WriteError::Stale));
        assert!(denials.of(&here, "c").is_err());
        denials.answered(&here, "b", &Ok(()));
        assert_eq!(denials.of(&here, "c"), Ok(()));
    }
}
