//! One request to servers of all kinds, on loopback.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use jiff::Timestamp;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::super::fixtures::endpoint as unhealthy;
use super::super::{Config, http};
use super::*;

/// How a server answers.
#[derive(Clone)]
enum Answer {
    /// These bytes, and the end.
    Says(String),
    /// These bytes, and then more of them for ever.
    NeverEnds(String),
    /// Nothing.
    Silence,
}

/// A server, and the requests that it got.
struct Server {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl Server {
    async fn start(answer: Answer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let requests: Arc<Mutex<Vec<String>>> = Arc::default();
        let got = Arc::clone(&requests);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (answer, got) = (answer.clone(), Arc::clone(&got));
                tokio::spawn(serve(stream, answer, got));
            }
        });
        Self {
            address,
            requests,
            task,
        }
    }

    /// One that answers with this status, these headers and this body.
    async fn answering(status: &str, headers: &str, body: &str) -> Self {
        let length = body.len();
        Self::start(Answer::Says(format!(
            "HTTP/1.1 {status}\r\n{headers}content-length: {length}\r\n\r\n{body}"
        )))
        .await
    }

    fn config(&self) -> Config {
        Config::new(vec![self.url()])
    }

    fn url(&self) -> Url {
        Url::parse(&format!("http://{}/am", self.address)).unwrap()
    }

    /// Sends it one alert.
    async fn post(&self, config: Config) -> Result<(), Trouble> {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let alert = unhealthy(1);
        let posting = Posting {
            subject: alert.subject(),
            alert: Arc::new(alert),
            ends: Timestamp::from_second(2_000).unwrap(),
        };
        http(&config, &self.url()).unwrap().post(&[posting]).await
    }

    fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(mut stream: TcpStream, answer: Answer, got: Arc<Mutex<Vec<String>>>) {
    let request = request(&mut stream).await;
    got.lock().unwrap().push(request);
    match answer {
        Answer::Says(bytes) => {
            let _ = stream.write_all(bytes.as_bytes()).await;
        }
        Answer::NeverEnds(bytes) => {
            let more = "no ".repeat(1_000);
            let mut next = bytes.as_bytes();
            while stream.write_all(next).await.is_ok() {
                next = more.as_bytes();
            }
        }
        Answer::Silence => std::future::pending().await,
    }
}

/// Reads a request up to the end of its body.
async fn request(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    loop {
        let mut more = [0; 4096];
        let n = stream.read(&mut more).await.unwrap();
        bytes.extend_from_slice(&more[..n]);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if n == 0 {
            return text;
        }
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "));
            if body.len() >= length.map_or(0, |length| length.parse().unwrap()) {
                return text;
            }
        }
    }
}

fn failure(outcome: Result<(), Trouble>) -> String {
    match outcome {
        Err(Trouble::Failed(message)) => message,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_path_of_the_url_is_kept() {
    for (base, expected) in [
        ("http://am:9093", "http://am:9093/api/v2/alerts"),
        ("http://am:9093/", "http://am:9093/api/v2/alerts"),
        ("https://x/am", "https://x/am/api/v2/alerts"),
        ("https://x/am/", "https://x/am/api/v2/alerts"),
    ] {
        let url = endpoint(&Url::parse(base).unwrap()).unwrap();
        assert_eq!(url.as_str(), expected);
    }
}

#[test]
fn only_a_bad_request_is_not_tried_again() {
    let refused = |status: u16| {
        let status = StatusCode::from_u16(status).unwrap();
        matches!(refusal(status, None), Trouble::Refused(_))
    };
    let others = [302, 401, 403, 404, 405, 408, 413, 422, 429, 500, 503];
    assert!(refused(400));
    assert!(!others.into_iter().any(refused));
}

#[tokio::test]
async fn alerts_are_posted_as_json_below_the_path_of_the_url() {
    let server = Server::answering("200 OK", "", "").await;
    server.post(server.config()).await.unwrap();
    let requests = server.requests();
    let (head, body) = requests[0].split_once("\r\n\r\n").unwrap();
    assert!(
        head.starts_with("POST /am/api/v2/alerts HTTP/1.1\r\n"),
        "{head}"
    );
    assert!(head.contains("content-type: application/json"), "{head}");
    assert!(!head.contains("authorization"), "{head}");
    let body: serde_json::Value = serde_json::from_str(body).unwrap();
    assert_eq!(body[0]["labels"]["pod"], "web-1");
}

#[tokio::test]
async fn the_token_is_sent_as_the_file_says_now() {
    let server = Server::answering("200 OK", "", "").await;
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut config = server.config();
    config.token_file = Some(file.path().to_owned());
    for token in ["first", "second"] {
        std::fs::write(file.path(), format!("{token}\n")).unwrap();
        server.post(config.clone()).await.unwrap();
        let request = server.requests().pop().unwrap();
        let header = format!("authorization: Bearer {token}\r\n");
        assert!(request.contains(&header), "{request}");
    }
    config.token_file = Some("/nonexistent/token".into());
    let message = failure(server.post(config).await);
    assert!(message.contains("/nonexistent/token"), "{message}");
    assert_eq!(server.requests().len(), 2);
}

#[tokio::test]
async fn what_alertmanager_says_of_a_bad_request_is_told_on_one_line() {
    let reason = r#""bad\nlabel""#;
    let server = Server::answering("400 Bad Request", "", reason).await;
    let outcome = server.post(server.config()).await;
    let message = "status 400 Bad Request: bad\\nlabel".to_owned();
    assert_eq!(outcome, Err(Trouble::Refused(message)));
}

#[tokio::test]
async fn a_token_that_comes_back_is_not_told() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "hunter2").unwrap();
    for status in [
        "400 Bad Request",
        "401 Unauthorized",
        "403 Forbidden",
        "407 Proxy Authentication Required",
        "422 Unprocessable Entity",
        "500 Internal Server Error",
    ] {
        let body = "you sent Authorization: Bearer hunter2, hunter2!";
        let server = Server::answering(status, "", body).await;
        let mut config = server.config();
        config.token_file = Some(file.path().to_owned());
        let message = server.post(config).await.unwrap_err().to_string();
        assert!(
            message.starts_with(&format!("status {status}")),
            "{message}"
        );
        assert!(!message.contains("hunter2"), "{message}");
        let is_told = status.starts_with("400") || status.starts_with("422");
        assert_eq!(message.contains("you sent"), is_told, "{message}");
    }
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let elsewhere = Server::answering("200 OK", "", "").await;
    for status in [
        "302 Found",
        "307 Temporary Redirect",
        "308 Permanent Redirect",
    ] {
        let location = format!("location: http://{}/\r\n", elsewhere.address);
        let server = Server::answering(status, &location, "").await;
        let message = failure(server.post(server.config()).await);
        assert!(message.contains("redirects are not followed"), "{message}");
    }
    assert_eq!(elsewhere.requests().len(), 0);
}

#[tokio::test]
async fn one_that_does_not_answer_is_given_up_at_the_deadline() {
    let server = Server::start(Answer::Silence).await;
    let mut config = server.config();
    config.deadline = Duration::from_millis(200);
    let message = failure(server.post(config).await);
    assert_eq!(message, "no answer within 200ms");
}

#[tokio::test]
async fn of_an_answer_without_end_a_line_is_told() {
    let head = "HTTP/1.1 400 Bad Request\r\ncontent-length: 1000000000000\r\n\r\n";
    let server = Server::start(Answer::NeverEnds(head.to_owned())).await;
    let message = match server.post(server.config()).await {
        Err(Trouble::Refused(message)) => message,
        other => panic!("{other:?}"),
    };
    assert!(message.contains("no no no"), "{message}");
    assert!(message.len() < 400, "{message}");
}

#[tokio::test]
async fn a_success_without_end_is_a_success() {
    let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3e8\r\n";
    let server = Server::start(Answer::NeverEnds(head.to_owned())).await;
    assert_eq!(server.post(server.config()).await, Ok(()));
}

#[tokio::test]
async fn what_is_no_http_and_what_is_nobody_fails_without_the_path() {
    let server = Server::start(Answer::Says("hello\r\n\r\n".to_owned())).await;
    let message = failure(server.post(server.config()).await);
    assert!(message.contains(&server.address.to_string()), "{message}");
    assert!(!message.contains("/am"), "{message}");
    server.task.abort();
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = Url::parse(&format!("http://{}/am", gone.local_addr().unwrap())).unwrap();
    drop(gone);
    let message = failure(http(&server.config(), &url).unwrap().post(&[]).await);
    assert!(message.contains("refused"), "{message}");
    assert!(!message.contains("/am"), "{message}");
}
