//! Medians, and how far they can be trusted.

/// The median; not a number of nothing.
pub(crate) fn median(values: &[f64]) -> f64 {
    let sorted = sorted(values);
    match sorted.len() {
        0 => f64::NAN,
        len if len % 2 == 1 => sorted[len / 2],
        len => f64::midpoint(sorted[len / 2 - 1], sorted[len / 2]),
    }
}

/// Bounds between which the median of what was drawn from lies with at least 95 % probability, whatever its distribution:
/// order statistics, by the binomial distribution. The extremes when there are too few values for that.
pub(crate) fn interval(values: &[f64]) -> (f64, f64) {
    let sorted = sorted(values);
    let len = sorted.len();
    let (Some(first), Some(last)) = (sorted.first(), sorted.last()) else {
        return (f64::NAN, f64::NAN);
    };
    // How probable it is that at most `at` values lie below the median.
    let (mut term, mut below, mut rank) = (0.5f64.powi(len as i32), 0.0, None);
    for at in 0..len / 2 {
        below += term;
        if below > 0.025 {
            break;
        }
        rank = Some(at + 1);
        term *= (len - at) as f64 / (at + 1) as f64;
    }
    match rank {
        Some(rank) => (sorted[rank - 1].max(*first), sorted[len - rank].min(*last)),
        None => (*first, *last),
    }
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_is_that_of_the_tables() {
        // Ranks of the sign test for 95 %: 6 values 1 and 6, 10 values 2 and 9, 30 values 10 and 21.
        let values = |count: u32| (1..=count).map(f64::from).collect::<Vec<_>>();
        assert_eq!(interval(&values(5)), (1.0, 5.0));
        assert_eq!(interval(&values(6)), (1.0, 6.0));
        assert_eq!(interval(&values(10)), (2.0, 9.0));
        assert_eq!(interval(&values(30)), (10.0, 21.0));
        assert_eq!(median(&values(30)), 15.5);
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
    }
}
