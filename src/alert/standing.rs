//! What is said in the log of how an Alertmanager takes alerts? When that
//! changes, and not each time.

use std::time::Duration;

use tokio::time::Instant;

use super::post::Trouble;

/// Time between two lines on alerts that are refused.
const AGAIN: Duration = Duration::from_secs(10 * 60);

/// How an Alertmanager took alerts last.
#[derive(Debug, Default)]
pub(super) struct Standing {
    away: bool,
    refused: Option<Instant>,
}

/// What there is to say.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum News {
    /// It takes none.
    Away,
    /// It takes them again.
    Back,
    /// It refuses some.
    Refuses,
}

impl Standing {
    /// Takes in what became of a request.
    pub(super) fn after(&mut self, outcome: &Result<(), Trouble>, now: Instant) -> Vec<News> {
        let away = matches!(outcome, Err(Trouble::Failed(_)));
        let mut news = Vec::new();
        if away != self.away {
            self.away = away;
            news.push(if away { News::Away } else { News::Back });
        }
        let refused = matches!(outcome, Err(Trouble::Refused(_)));
        if refused && self.refused.is_none_or(|last| now >= last + AGAIN) {
            self.refused = Some(now);
            news.push(News::Refuses);
        }
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_said_once_that_it_is_away_and_once_that_it_is_back() {
        let mut standing = Standing::default();
        let now = Instant::now();
        let failed = || Err(Trouble::Failed(String::new()));
        assert_eq!(standing.after(&Ok(()), now), []);
        assert_eq!(standing.after(&failed(), now), [News::Away]);
        assert_eq!(standing.after(&failed(), now), []);
        assert_eq!(standing.after(&Ok(()), now), [News::Back]);
        assert_eq!(standing.after(&Ok(()), now), []);
        assert_eq!(standing.after(&failed(), now), [News::Away]);
    }

    #[test]
    fn refusals_are_told_of_every_ten_minutes() {
        let mut standing = Standing::default();
        let now = Instant::now();
        let refused = || Err(Trouble::Refused(String::new()));
        assert_eq!(standing.after(&refused(), now), [News::Refuses]);
        assert_eq!(standing.after(&Ok(()), now), []);
        assert_eq!(standing.after(&refused(), now), []);
        let later = now + AGAIN;
        assert_eq!(standing.after(&refused(), later), [News::Refuses]);
    }
}
