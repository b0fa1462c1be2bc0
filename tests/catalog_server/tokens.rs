//! Tokens of service accounts, as the server has them reviewed. The API server
//! is one of the test's own here, that counts and can be made to hang; the real
//! one is asked in tests/cluster.

use std::io::Write as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::State;
use axum::routing::post;
use axum::{Json, Router};
use reqwest::{Response, StatusCode};
use serde_json::{Value, json};
use tempfile::NamedTempFile;
use tokio::net::TcpListener;

use crate::server::{Catalog, Database};

/// Three parts in base64url, as a token has.
const TOKEN: &str = "eyJ0.eyJj-canary-5d1e.c2ln";
const USER: &str = "system:serviceaccount:infra:controller";

/// What an API server says to each review.
#[derive(Clone)]
enum Says {
    Status(Value),
    /// Something that is no review, with the token in it.
    Nonsense,
    Nothing,
}

struct ApiServer {
    reviews: AtomicUsize,
    asked: Mutex<Vec<Value>>,
    says: Mutex<Says>,
}

impl ApiServer {
    /// Starts one, and gives a kubeconfig that leads to it.
    async fn start(says: Says) -> (Arc<Self>, NamedTempFile) {
        let server = Arc::new(Self {
            reviews: AtomicUsize::new(0),
            asked: Mutex::default(),
            says: Mutex::new(says),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let path = "/apis/authentication.k8s.io/v1/tokenreviews";
        let router = Router::new().route(path, post(review));
        let router = router.with_state(Arc::clone(&server));
        tokio::spawn(async move { axum::serve(listener, router).await });
        let kubeconfig = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "c", "cluster": {"server": format!("http://{address}")}}],
            "users": [{"name": "u", "user": {}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "x",
        });
        let mut file = NamedTempFile::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        write!(file, "{kubeconfig}").unwrap();
        (server, file)
    }

    fn reviews(&self) -> usize {
        self.reviews.load(Ordering::SeqCst)
    }

    fn say(&self, says: Says) {
        *self.says.lock().unwrap() = says;
    }
}

async fn review(State(server): State<Arc<ApiServer>>, Json(asked): Json<Value>) -> Json<Value> {
    server.reviews.fetch_add(1, Ordering::SeqCst);
    server.asked.lock().unwrap().push(asked.clone());
    let says = server.says.lock().unwrap().clone();
    match says {
        Says::Status(status) => {
            let mut answer = asked;
            answer["status"] = status;
            Json(answer)
        }
        Says::Nonsense => Json(json!([asked["spec"]["token"]])),
        Says::Nothing => std::future::pending().await,
    }
}

fn yes() -> Says {
    Says::Status(json!({
        "authenticated": true,
        "audiences": ["catalog"],
        "user": {"username": USER},
    }))
}

fn no() -> Says {
    Says::Status(json!({"authenticated": false, "error": format!("not {TOKEN}\n")}))
}

fn serve(database: &Database, kubeconfig: &NamedTempFile, more: &[&str]) -> Catalog {
    let args = [
        "--token-audience=catalog",
        "--token-account=infra/controller",
    ];
    let env = [
        ("KUBECONFIG", kubeconfig.path().to_str().unwrap()),
        ("RUST_LOG", "trace"),
    ];
    database.serve_with(&[&args, more].concat(), &env)
}

async fn ask(server: &Catalog, token: Option<&str>) -> Response {
    let mut request = server.http.get(format!("{}/api/v1/services", server.url));
    if let Some(token) = token {
        request = request.header("Authorization", format!("Bearer {token}"));
    }
    request.send().await.unwrap()
}

async fn refused(response: Response, status: u16) -> String {
    assert_eq!(response.status().as_u16(), status);
    let kind = &response.headers()["content-type"];
    assert_eq!(kind, "application/problem+json");
    let challenged = response.headers().get("www-authenticate");
    assert_eq!(challenged.is_some(), status == 401);
    let problem: Value = response.json().await.unwrap();
    assert_eq!(problem["status"], status);
    problem["detail"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_token_that_was_let_in_is_reviewed_once_for_some_time() {
    let (api, kubeconfig) = ApiServer::start(yes()).await;
    let database = Database::sqlite();
    let server = serve(&database, &kubeconfig, &["--token-trusted-for=1m"]);
    for _ in 0..3 {
        assert_eq!(ask(&server, Some(TOKEN)).await.status(), StatusCode::OK);
    }
    assert_eq!(api.reviews(), 1);
    let asked = api.asked.lock().unwrap()[0]["spec"].clone();
    assert_eq!(asked, json!({"audiences": ["catalog"], "token": TOKEN}));
    // Another one is another.
    assert_eq!(ask(&server, Some("a.b.c")).await.status(), StatusCode::OK);
    assert_eq!(api.reviews(), 2);
}

#[tokio::test]
async fn a_revoked_token_opens_for_no_longer_than_it_is_trusted() {
    let (api, kubeconfig) = ApiServer::start(yes()).await;
    let database = Database::sqlite();
    let server = serve(&database, &kubeconfig, &["--token-trusted-for=1ms"]);
    assert_eq!(ask(&server, Some(TOKEN)).await.status(), StatusCode::OK);
    api.say(no());
    tokio::time::sleep(Duration::from_millis(2)).await;
    let detail = refused(ask(&server, Some(TOKEN)).await, 401).await;
    assert!(detail.contains("revoked"), "{detail}");
    // A refusal is not remembered.
    api.say(yes());
    assert_eq!(ask(&server, Some(TOKEN)).await.status(), StatusCode::OK);
}

#[tokio::test]
async fn whoever_is_not_let_in_is_told_why() {
    let (api, kubeconfig) = ApiServer::start(no()).await;
    let database = Database::sqlite();
    let server = serve(&database, &kubeconfig, &[]);
    let detail = refused(ask(&server, None).await, 401).await;
    assert!(
        detail.contains("send a service account's token"),
        "{detail}"
    );
    assert!(
        !refused(ask(&server, Some("no-token")).await, 401)
            .await
            .is_empty()
    );
    assert_eq!(
        api.reviews(),
        0,
        "the API server is asked about what is no token"
    );

    let detail = refused(ask(&server, Some(TOKEN)).await, 401).await;
    assert!(detail.contains("not for this catalog"), "{detail}");
    assert!(!detail.contains("canary"), "{detail}");
    for (audiences, user, word) in [
        (json!(["elsewhere"]), USER, "not for this catalog"),
        // An API server that knows of no audiences.
        (Value::Null, USER, "not for this catalog"),
        (
            json!(["catalog"]),
            "system:serviceaccount:infra:default",
            "not let in",
        ),
    ] {
        api.say(Says::Status(json!({
            "authenticated": true, "audiences": audiences, "user": {"username": user},
        })));
        let detail = refused(ask(&server, Some(TOKEN)).await, 401).await;
        assert!(detail.contains(word), "{detail}");
    }
    assert_eq!(server.get("/healthz").await.status(), StatusCode::OK);
}

#[tokio::test]
async fn an_api_server_that_does_not_say_is_no_reason_to_refuse_the_credential() {
    let (api, kubeconfig) = ApiServer::start(Says::Nonsense).await;
    let database = Database::sqlite();
    let server = serve(&database, &kubeconfig, &[]);
    let unsaid = ask(&server, Some(TOKEN)).await;
    assert_eq!(unsaid.headers()["retry-after"], "1");
    refused(unsaid, 503).await;
    api.say(Says::Nothing);
    refused(ask(&server, Some(TOKEN)).await, 503).await;
    api.say(yes());
    assert_eq!(ask(&server, Some(TOKEN)).await.status(), StatusCode::OK);
    // At the level of trace, with an answer that could not be decoded.
    let log = server.log();
    assert!(log.contains("cannot be reviewed"), "{log}");
    assert!(!log.contains("canary"), "{log}");
}

#[tokio::test]
async fn beside_a_key_either_opens() {
    let (_api, kubeconfig) = ApiServer::start(yes()).await;
    let database = Database::sqlite();
    let mut key = NamedTempFile::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    write!(key, "open-sesame").unwrap();
    let file = ["--api-key-file", key.path().to_str().unwrap()];
    let server = serve(&database, &kubeconfig, &file);
    let with = async |key: &str, token: Option<&str>| {
        let request = server.http.get(format!("{}/api/v1/services", server.url));
        let mut request = request.header("X-API-Key", key);
        if let Some(token) = token {
            request = request.header("authorization", format!("bearer {token}"));
        }
        request.send().await.unwrap()
    };
    assert_eq!(with("open-sesame", None).await.status(), StatusCode::OK);
    assert_eq!(with("wrong", Some(TOKEN)).await.status(), StatusCode::OK);
    assert_eq!(
        with("open-sesame", Some("x")).await.status(),
        StatusCode::OK
    );
    let refused = with("wrong", None).await;
    let ways = refused.headers().get_all("www-authenticate");
    assert_eq!(ways.iter().collect::<Vec<_>>(), ["ApiKey", "Bearer"]);
}
