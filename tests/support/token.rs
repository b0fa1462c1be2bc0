//! Tokens of service accounts, as the kubelet asks for them, and such as it
//! never gets: some that have ended, signed by the cluster's own key.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::{Api, PostParams};
use rcgen::{KeyPair, SigningKey as _};
use serde_json::Value;

/// A token for this audience, as a projected volume holds it.
pub async fn request(
    client: &kube::Client,
    namespace: &str,
    account: &str,
    audience: &str,
) -> Result<String> {
    let accounts = Api::<ServiceAccount>::namespaced(client.clone(), namespace);
    let request = TokenRequest {
        spec: Some(TokenRequestSpec {
            audiences: Some(vec![audience.to_owned()]),
            expiration_seconds: Some(600),
            ..TokenRequestSpec::default()
        }),
        ..TokenRequest::default()
    };
    let answer = accounts
        .create_token_request(account, &PostParams::default(), &request)
        .await?;
    let token = answer.status.and_then(|status| status.token);
    token.context("the token request has no answer")
}

/// The same token with its times moved by so many seconds, signed anew by the
/// key of the run's API server.
pub fn moved(run: &Path, token: &str, seconds: i64) -> Result<String> {
    let (head, rest) = token.split_once('.').context("no token")?;
    let (claims, _) = rest.split_once('.').context("no token")?;
    let mut claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims)?)?;
    for name in ["iat", "nbf", "exp"] {
        let time = claims[name].as_i64().context("no time")?;
        claims[name] = Value::from(time + seconds);
    }
    let signed = format!("{head}.{}", URL_SAFE_NO_PAD.encode(claims.to_string()));
    let key = std::fs::read_to_string(run.join("service-accounts.key"))?;
    let signature = KeyPair::from_pem(&key)?.sign(signed.as_bytes())?;
    let signature = URL_SAFE_NO_PAD.encode(plain(&signature)?);
    Ok(format!("{signed}.{signature}"))
}

/// Two numbers of 32 bytes, as a token has its signature, of the two integers
/// that DER makes of them.
fn plain(der: &[u8]) -> Result<Vec<u8>> {
    let mut rest = der.get(2..).context("no signature")?;
    let mut plain = Vec::new();
    for _ in 0..2 {
        let length = usize::from(*rest.get(1).context("no integer")?);
        let number = rest.get(2..2 + length).context("no integer")?;
        // A leading nought keeps it positive; leading noughts are left out.
        let number = number.strip_prefix(&[0]).unwrap_or(number);
        ensure!(number.len() <= 32, "it is no P-256 signature");
        plain.resize(plain.len() + 32 - number.len(), 0);
        plain.extend_from_slice(number);
        rest = &rest[2 + length..];
    }
    Ok(plain)
}
