//! Which targets of SRV records are asked (RFC 2782).

use std::collections::BTreeMap;

/// One SRV record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub priority: u16,
    pub weight: u16,
    pub port: u16,
    /// Without its last dot.
    pub target: String,
}

/// A target with the weight that each of its addresses gets.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Target {
    pub name: String,
    pub port: u16,
    pub weight: u32,
}

/// What a record of weight 0 weighs beside others: RFC 2782 gives it "a very small chance".
const SCALE: u32 = 100;

/// The groups of targets by priority, the one to be used first. A target of `.` means that there is no service, and is
/// none.
pub fn groups(records: &[Record]) -> Vec<Vec<Target>> {
    let mut groups: BTreeMap<u16, Vec<&Record>> = BTreeMap::new();
    for record in records
        .iter()
        .filter(|record| !record.target.is_empty() && record.port > 0)
    {
        groups.entry(record.priority).or_default().push(record);
    }
    groups.into_values().map(|group| targets(&group)).collect()
}

fn targets(group: &[&Record]) -> Vec<Target> {
    let weighted = group.iter().any(|record| record.weight > 0);
    let mixed = weighted && group.iter().any(|record| record.weight == 0);
    let weight = |record: &Record| match u32::from(record.weight) {
        0 => 1,
        weight if mixed => weight * SCALE,
        weight => weight,
    };
    let mut targets: Vec<Target> = group
        .iter()
        .map(|record| Target {
            name: record.target.to_ascii_lowercase(),
            port: record.port,
            weight: weight(record),
        })
        .collect();
    targets.sort();
    targets.dedup_by(|a, b| (&a.name, a.port) == (&b.name, b.port));
    targets
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn record(priority: u16, weight: u16, target: &str) -> Record {
        Record {
            priority,
            weight,
            port: 80,
            target: target.into(),
        }
    }

    fn shown(groups: &[Vec<Target>]) -> Vec<Vec<(&str, u32)>> {
        groups
            .iter()
            .map(|group| {
                group
                    .iter()
                    .map(|one| (one.name.as_str(), one.weight))
                    .collect()
            })
            .collect()
    }

    #[test]
    fn the_lowest_number_comes_first_and_zero_is_little_beside_others() {
        let records = [
            record(20, 0, "spare"),
            record(10, 3, "b"),
            record(10, 0, "A"),
            record(10, 1, "c"),
            record(5, 9, ""),
        ];
        let groups = groups(&records);
        assert_eq!(
            shown(&groups),
            [vec![("a", 1), ("b", 300), ("c", 100)], vec![("spare", 1)]]
        );
    }

    proptest! {
        #[test]
        fn order_and_repetition_mean_nothing(
            mut records in proptest::collection::vec(
                (0u16..3, 0u16..4, 1u16..3, "[a-c]").prop_map(|(priority, weight, port, target)| Record {
                    priority, weight, port, target,
                }), 0..12),
            turn in 0usize..12,
        ) {
            // of two that differ in their weight alone, either may be taken
            records.sort_by(|a, b| (a.priority, &a.target, a.port).cmp(&(b.priority, &b.target, b.port)));
            records.dedup_by(|a, b| (a.priority, &a.target, a.port) == (b.priority, &b.target, b.port));
            let before = groups(&records);
            let mut turned = records.clone();
            if !turned.is_empty() {
                let turn = turn % turned.len();
                turned.rotate_left(turn);
            }
            turned.extend(records.iter().cloned());
            prop_assert_eq!(before.clone(), groups(&turned));
            prop_assert!(before.iter().flatten().all(|target| target.weight > 0));
        }
    }
}
