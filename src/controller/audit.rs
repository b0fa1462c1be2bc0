//! A word in the log for every request that changes something in the cluster,
//! whatever came of it: as many lines as the API server's own audit log has
//! records of this account.

use super::error::{brief, chain};

/// One request, in the API server's words for it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Write<'a> {
    /// As the server's audit log has it: an apply is a `patch`.
    pub(crate) verb: &'static str,
    /// With its subresource, as in `ServiceBinding/status`.
    pub(crate) kind: &'static str,
    /// Namespace of the object.
    pub(crate) namespace: &'a str,
    /// Its name.
    pub(crate) name: &'a str,
    /// For which bindings, if for any.
    pub(crate) binding: Option<&'a str>,
    /// Why it was made.
    pub(crate) reason: &'a str,
}

/// What became of a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Outcome {
    /// The server carried it out.
    Success,
    /// The server refused it.
    Failure,
    /// It was never sent, or nobody knows what became of it.
    Unanswered,
}

impl Outcome {
    fn of<T>(answer: &Result<T, kube::Error>) -> Self {
        match answer {
            Ok(_) => Self::Success,
            Err(kube::Error::Api(_)) => Self::Failure,
            Err(_) => Self::Unanswered,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failure => "failure",
            Self::Unanswered => "unanswered",
        }
    }
}

impl Write<'_> {
    /// The request ended so.
    pub(crate) fn ended<T>(&self, answer: &Result<T, kube::Error>) {
        let error = answer.as_ref().err().map(error);
        tracing::info!(
            audit = true,
            verb = self.verb,
            kind = self.kind,
            namespace = self.namespace,
            name = self.name,
            binding = self.binding,
            reason = self.reason,
            outcome = Outcome::of(answer).as_str(),
            error,
            "wrote"
        );
    }

    /// The same of a request that is made every few seconds and says nothing
    /// new: a word for whoever wants all of them.
    pub(crate) fn ended_as_ever<T>(&self, answer: &Result<T, kube::Error>) {
        let error = answer.as_ref().err().map(error);
        tracing::debug!(
            audit = true,
            verb = self.verb,
            kind = self.kind,
            namespace = self.namespace,
            name = self.name,
            reason = self.reason,
            outcome = Outcome::of(answer).as_str(),
            error,
            "wrote"
        );
    }
}

/// The server's own words, bounded, or what kept it from answering.
fn error(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => brief(&status.message),
        other => chain(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_server_did_not_answer_is_no_refusal() {
        let refused = kube::core::Status {
            code: 403,
            ..kube::core::Status::default()
        };
        let refused: Result<(), _> = Err(kube::Error::Api(refused.boxed()));
        let cut_off: Result<(), _> = Err(kube::Error::Service("no route".into()));
        let outcomes = [Ok(()), refused, cut_off].map(|answer| Outcome::of(&answer).as_str());
        assert_eq!(outcomes, ["success", "failure", "unanswered"]);
    }
}
