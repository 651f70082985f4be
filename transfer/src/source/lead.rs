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

/// Where a run is in what its lead wants. It outlives a lost link: what was begun then is still to be done.
pub(crate) struct Course<'a> {
    lead: &'a dyn Lead,
    standing: Standing,
    next: Option<Next>,
    is_over: bool,
}

impl<'a> Course<'a> {
    /// From the beginning.
    pub(crate) fn new(lead: &'a dyn Lead) -> Self {
        Self {
            lead,
            standing: Standing::default(),
            next: None,
            is_over: false,
        }
    }

    /// What is to be made now; `None` when nothing is left but the cutover and the verification.
    ///
    /// # Errors
    /// What the lead ends the run with.
    pub(crate) fn next(&mut self) -> Result<Option<Next>> {
        if self.is_over {
            return Ok(None);
        }
        let next = match self.next {
            Some(next) => next,
            None => self.lead.next(self.standing)?,
        };
        self.is_over = next == Next::End;
        self.next = Some(next).filter(|_| !self.is_over);
        Ok(self.next)
    }

    /// It was made, and the rounds have come so far.
    pub(crate) fn made(&mut self, standing: Standing) {
        self.standing = standing;
        self.is_over = self.next.take() == Some(Next::Last);
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
    fn what_an_interruption_left_undone_is_made_before_anything_else() {
        let lead = Rounds::Count(2);
        let mut course = Course::new(&lead);
        assert_eq!(course.next().unwrap(), Some(Next::Round));
        assert_eq!(course.next().unwrap(), Some(Next::Round), "it was not made");
        course.made(after(1, false, true));
        assert_eq!(course.next().unwrap(), Some(Next::Last));
        assert_eq!(course.next().unwrap(), Some(Next::Last));
        // Nobody is asked after the last one, whatever it found.
        course.made(after(1, false, true));
        assert_eq!([course.next().unwrap(), course.next().unwrap()], [None, None]);
        let none = Rounds::Count(0);
        let mut course = Course::new(&none);
        assert_eq!([course.next().unwrap(), course.next().unwrap()], [None, None]);
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
