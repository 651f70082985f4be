//! Who says what a run does next, from round to round.
//!
//! A run keeps its connections and its trackers between two rounds: whoever wants further rounds later leads one run, for a
//! second run would have to look at everything again.

use crate::error::Result;
use crate::source::Rounds;

/// What follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// A round, and then the question again.
    Round,
    /// A state of one moment at the target, and then the question again: rounds and a freeze as at the cutover, without the
    /// administrator's commands. Where the run ends without a freeze it is a round.
    Moment,
    /// The last round, which looks at everything where changes can go unseen, and the end.
    Last,
    /// The end: the cutover and the verification, if they are wanted.
    End,
}

/// How far the rounds of a run have come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Rounds that both sides have sealed.
    pub rounds: u32,
    /// Whether the last of them found nothing to send.
    pub clean: bool,
    /// Whether that one would have found any change: some changes of a tree make no event.
    pub exhaustive: bool,
}

/// Leads a run.
pub trait Lead: Sync {
    /// What follows. It may take its time: connections and trackers stay.
    ///
    /// # Errors
    /// The run ends with this error; what is durable at the target is kept.
    fn next(&self, standing: Standing) -> Result<Next>;

    /// Whether there will be one round only: then nothing needs to be tracked.
    fn is_single(&self) -> bool {
        false
    }
}

impl Lead for Rounds {
    fn next(&self, standing: Standing) -> Result<Next> {
        let max = match *self {
            Self::Count(count) => count,
            Self::UntilClean { .. } if standing.clean && standing.exhaustive => return Ok(Next::End),
            Self::UntilClean { .. } if standing.clean => return Ok(Next::Last),
            Self::UntilClean { max } => max,
        };
        Ok(match max.saturating_sub(standing.rounds) {
            0 => Next::End,
            1 => Next::Last,
            _ => Next::Round,
        })
    }

    fn is_single(&self) -> bool {
        *self == Self::Count(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(rounds: u32, clean: bool, exhaustive: bool) -> Standing {
        Standing {
            rounds,
            clean,
            exhaustive,
        }
    }

    #[test]
    fn so_many_rounds_are_made_and_the_last_is_known_as_such() {
        let lead = Rounds::Count(2);
        assert_eq!(lead.next(Standing::default()).unwrap(), Next::Round);
        assert_eq!(lead.next(after(1, true, true)).unwrap(), Next::Last);
        assert_eq!(lead.next(after(2, false, true)).unwrap(), Next::End);
        assert!(Rounds::Count(1).is_single() && !lead.is_single());
    }

    #[test]
    fn rounds_end_when_nothing_is_left_that_could_have_gone_unseen() {
        let lead = Rounds::UntilClean { max: 4 };
        assert_eq!(lead.next(Standing::default()).unwrap(), Next::Round);
        assert_eq!(lead.next(after(1, false, true)).unwrap(), Next::Round);
        assert_eq!(lead.next(after(2, true, true)).unwrap(), Next::End);
        assert_eq!(lead.next(after(2, true, false)).unwrap(), Next::Last);
        assert_eq!(lead.next(after(3, false, false)).unwrap(), Next::Last);
        assert_eq!(lead.next(after(4, false, false)).unwrap(), Next::End);
    }
}
