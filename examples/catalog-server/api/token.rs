//! Whose bearer tokens open the catalog? Those of some service accounts, if
//! they are for this catalog. The API server says so (TokenReview), and who it
//! let in is remembered for a short while. Does IO to the API server alone.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use kube::api::PostParams;
use kube::{Api, Client};
use sha2::{Digest, Sha256};
use tokio::time::{Instant, timeout};

/// How long the API server may take for one review.
const DEADLINE: Duration = Duration::from_secs(5);

/// Reviews at once; others wait. What is remembered needs none. A token always
/// goes through the same gate, so that requests which come together with one
/// that is new have it reviewed once.
const GATES: usize = 8;

/// Tokens that are remembered at once; more are reviewed each time.
const MOST_KNOWN: usize = 1_000;

/// A token of a service account has some 1,000 bytes.
const LONGEST: usize = 16 * 1024;

/// Why a token does not open.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Refusal {
    /// The API server does not take it for this catalog.
    Invalid,
    /// It is good, and of somebody who is not let in.
    Stranger,
    /// The API server did not say.
    Unknown,
}

/// Which tokens open.
pub(crate) struct Rule {
    /// Whom they must be for.
    pub(crate) audience: String,
    /// Names of their users, as in `system:serviceaccount:NAMESPACE:NAME`.
    pub(crate) users: BTreeSet<String>,
    /// How long one that was let in is not reviewed again.
    pub(crate) trusted_for: Duration,
}

/// The tokens of service accounts.
pub(crate) struct Tokens {
    rule: Rule,
    reviews: Api<TokenReview>,
    gates: [Arc<tokio::sync::Mutex<()>>; GATES],
    /// Until when, by the digest of the token: no token is kept.
    known: Mutex<HashMap<[u8; 32], Instant>>,
}

impl Tokens {
    pub(crate) fn new(rule: Rule, client: Client) -> Self {
        Self {
            rule,
            reviews: Api::all(client),
            gates: Default::default(),
            known: Mutex::default(),
        }
    }

    /// Whether the token opens.
    pub(crate) async fn check(self: &Arc<Self>, token: &str) -> Result<(), Refusal> {
        if !looks_like_one(token) {
            return Err(Refusal::Invalid);
        }
        let digest: [u8; 32] = Sha256::digest(token).into();
        if self.is_known(&digest) {
            return Ok(());
        }
        let gate = usize::from(digest[0]) % GATES;
        let passing = Arc::clone(&self.gates[gate]).lock_owned().await;
        // Somebody else may have had it reviewed while we waited.
        if self.is_known(&digest) {
            return Ok(());
        }
        // Goes on where the client hangs up: it comes again, and finds the answer.
        let (tokens, token) = (Arc::clone(self), token.to_owned());
        let reviewed = tokio::spawn(async move {
            let _passing = passing;
            tokens.have_reviewed(digest, &token).await
        });
        reviewed.await.unwrap_or(Err(Refusal::Unknown))
    }

    /// What the API server says about the token, for whoever asks next as well.
    async fn have_reviewed(&self, digest: [u8; 32], token: &str) -> Result<(), Refusal> {
        // The answer is as old as the question.
        let until = Instant::now() + self.rule.trusted_for;
        self.rule.judge(&self.review(token).await?)?;
        self.remember(digest, until);
        Ok(())
    }

    async fn review(&self, token: &str) -> Result<TokenReviewStatus, Refusal> {
        let review = TokenReview {
            spec: TokenReviewSpec {
                audiences: Some(vec![self.rule.audience.clone()]),
                token: token.to_owned(),
            },
            ..TokenReview::default()
        };
        let params = PostParams::default();
        let answer = timeout(DEADLINE, self.reviews.create(&params, &review)).await;
        let why = match answer {
            Ok(Ok(review)) => return review.status.ok_or(Refusal::Unknown),
            Ok(Err(kube::Error::Api(status))) => format!("{} {}", status.code, status.message),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {DEADLINE:?}"),
        };
        // Escaped, since it is somebody else's text.
        tracing::warn!(?why, "a token cannot be reviewed");
        Err(Refusal::Unknown)
    }

    fn is_known(&self, digest: &[u8; 32]) -> bool {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known
            .get(digest)
            .is_some_and(|until| Instant::now() < *until)
    }

    fn remember(&self, digest: [u8; 32], until: Instant) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        known.retain(|_, until| now < *until);
        if known.len() < MOST_KNOWN {
            known.insert(digest, until);
        }
    }
}

impl Rule {
    /// What a review says about a token.
    fn judge(&self, status: &TokenReviewStatus) -> Result<(), Refusal> {
        if status.authenticated != Some(true) {
            return Err(Refusal::Invalid);
        }
        // A server that knows of no audiences takes a token for any.
        let audiences = status.audiences.as_deref().unwrap_or_default();
        if !audiences.contains(&self.audience) {
            return Err(Refusal::Invalid);
        }
        let user = status.user.as_ref().and_then(|user| user.username.as_ref());
        if user.is_some_and(|user| self.users.contains(user)) {
            Ok(())
        } else {
            Err(Refusal::Stranger)
        }
    }
}

/// Whether the API server need be asked at all: three parts in base64url.
fn looks_like_one(token: &str) -> bool {
    let part = |part: &str| {
        let good = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        !part.is_empty() && part.bytes().all(good)
    };
    token.len() <= LONGEST && token.split('.').count() == 3 && token.split('.').all(part)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures::future::join_all;
    use http::{Request, Response};
    use k8s_openapi::api::authentication::v1::UserInfo;
    use kube::client::Body;
    use serde_json::json;
    use tokio::time::sleep;

    use super::*;

    const USER: &str = "system:serviceaccount:infra:controller";

    fn said(authenticated: bool, audiences: &[&str], user: Option<&str>) -> Result<(), Refusal> {
        let rule = Rule {
            audience: "catalog".to_owned(),
            users: BTreeSet::from([USER.to_owned()]),
            trusted_for: Duration::ZERO,
        };
        rule.judge(&TokenReviewStatus {
            authenticated: Some(authenticated),
            audiences: Some(audiences.iter().map(ToString::to_string).collect()),
            user: user.map(|user| UserInfo {
                username: Some(user.to_owned()),
                ..UserInfo::default()
            }),
            ..TokenReviewStatus::default()
        })
    }

    #[test]
    fn a_token_opens_that_is_good_for_this_catalog_and_of_an_account_that_is_let_in() {
        assert_eq!(said(true, &["other", "catalog"], Some(USER)), Ok(()));
        for (authenticated, audiences, user, expected) in [
            (false, &["catalog"][..], Some(USER), Refusal::Invalid),
            (true, &["other"], Some(USER), Refusal::Invalid),
            (true, &[], Some(USER), Refusal::Invalid),
            (true, &["catalog"], Some("infra"), Refusal::Stranger),
            (true, &["catalog"], None, Refusal::Stranger),
        ] {
            assert_eq!(
                said(authenticated, audiences, user),
                Err(expected),
                "{authenticated} {audiences:?} {user:?}"
            );
        }
    }

    /// An API server that thinks for a second, and takes every token.
    fn server(reviews: &Arc<AtomicUsize>) -> Client {
        let reviews = Arc::clone(reviews);
        let answer = tower::service_fn(move |_: Request<Body>| {
            reviews.fetch_add(1, Ordering::SeqCst);
            async {
                sleep(Duration::from_secs(1)).await;
                let status = json!({
                    "authenticated": true,
                    "audiences": ["catalog"],
                    "user": {"username": USER},
                });
                let review = json!({"metadata": {}, "spec": {"token": ""}, "status": status});
                Ok::<_, std::io::Error>(Response::new(Body::from(review.to_string().into_bytes())))
            }
        });
        Client::new(answer, "default")
    }

    /// Tokens that such a server reviews.
    fn tokens(reviews: &Arc<AtomicUsize>) -> Arc<Tokens> {
        let rule = Rule {
            audience: "catalog".to_owned(),
            users: BTreeSet::from([USER.to_owned()]),
            trusted_for: Duration::from_secs(60),
        };
        Arc::new(Tokens::new(rule, server(reviews)))
    }

    #[tokio::test(start_paused = true)]
    async fn a_review_goes_on_where_the_client_that_caused_it_hangs_up() {
        let reviews = Arc::default();
        let tokens = tokens(&reviews);
        let hung_up = timeout(Duration::from_millis(500), tokens.check("a.b.c"));
        assert!(hung_up.await.is_err());
        assert_eq!(tokens.check("a.b.c").await, Ok(()));
        assert_eq!(reviews.load(Ordering::SeqCst), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn clients_that_hang_up_while_they_wait_leave_nothing_behind() {
        let reviews = Arc::default();
        let tokens = tokens(&reviews);
        for n in 0..1_000 {
            let token = format!("a.b.{n}");
            let hung_up = timeout(Duration::from_micros(1), tokens.check(&token));
            assert!(hung_up.await.is_err());
        }
        assert!(Arc::strong_count(&tokens) <= 1 + GATES);
    }

    #[tokio::test(start_paused = true)]
    async fn requests_that_come_together_with_a_new_token_have_it_reviewed_once() {
        let reviews = Arc::default();
        let tokens = tokens(&reviews);
        let all = join_all((0..20).map(|_| tokens.check("a.b.c"))).await;
        assert!(all.iter().all(Result::is_ok), "{all:?}");
        assert_eq!(reviews.load(Ordering::SeqCst), 1);
        assert_eq!(tokens.check("a.b.d").await, Ok(()));
        assert_eq!(reviews.load(Ordering::SeqCst), 2);
    }

    #[test]
    fn the_api_server_is_not_asked_about_what_is_no_token() {
        assert!(looks_like_one("eyJh.eyJp-_.c2ln"));
        let long = format!("a.b.{}", "c".repeat(LONGEST));
        for text in [
            "", "a.b", "a..c", "a.b.c.d", "a.b.c=", "a.b.c d", "a.b.é", &long,
        ] {
            assert!(!looks_like_one(text), "{text}");
        }
    }
}
