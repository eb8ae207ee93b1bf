//! What the phone answers by itself, from what it knows itself: nothing of it leaves the phone but receipts.

use halo_receipts::time::Timestamp;

/// A request that needs no model.
#[derive(Debug, Clone, PartialEq)]
pub enum LocalIntent {
    /// The time of day.
    Time,
    /// Today's date.
    Date,
    /// The charge of the phone and the glasses.
    Battery,
    /// A number in another unit.
    Convert(Conversion),
    /// Keep these words.
    Note(String),
    /// Say the notes again.
    ReadNotes,
    /// The executive briefing that was put on this phone.
    Briefing,
    /// Something that the speaker wants kept on the phone, and that the phone has no answer to.
    Private,
    /// A command for the device itself.
    Device,
    /// A gesture without words.
    Gesture,
    /// A picture without words.
    Photo,
    /// Nothing could be heard.
    NotHeard,
    /// More was said than one request can carry.
    TooLong,
}

/// What the phone knows.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Facts {
    /// The phone's charge in percent, if it has a battery that can be read.
    pub battery: Option<u8>,
    /// The text of the executive briefing, if one was put on the phone.
    pub briefing: Option<String>,
    /// What the user asked to keep.
    pub notes: Vec<String>,
    /// Whether the glasses said that their battery is low.
    pub sensor_battery_low: bool,
}

/// Answers `intent` from `facts`; a note is added to them.
pub fn answer(intent: &LocalIntent, facts: &mut Facts, now: Timestamp) -> String {
    match intent {
        LocalIntent::Time => {
            let time = now.to_string();
            format!("It is {} UTC.", time.get(11..16).unwrap_or(&time))
        }
        LocalIntent::Date => {
            let time = now.to_string();
            format!("Today is {}.", time.get(..10).unwrap_or(&time))
        }
        LocalIntent::Battery => {
            let phone = match facts.battery {
                Some(percent) => format!("The phone is at {percent} percent"),
                None => "The phone does not report its charge".to_owned(),
            };
            let glasses = match facts.sensor_battery_low {
                true => "the glasses are low",
                false => "the glasses have not reported a low battery",
            };
            format!("{phone}; {glasses}.")
        }
        LocalIntent::Convert(conversion) => conversion.to_string(),
        LocalIntent::Note(text) => {
            facts.notes.push(text.clone());
            format!(
                "Noted. You have {} on this phone.",
                counted(facts.notes.len(), "note")
            )
        }
        LocalIntent::ReadNotes if facts.notes.is_empty() => "You have no notes.".to_owned(),
        LocalIntent::ReadNotes => {
            let notes = facts
                .notes
                .iter()
                .zip(1..)
                .map(|(note, n)| format!("{n}. {note}"));
            format!("Your notes: {}", notes.collect::<Vec<_>>().join(" "))
        }
        LocalIntent::Briefing => match &facts.briefing {
            Some(text) => text.trim().to_owned(),
            None => "There is no briefing on this phone.".to_owned(),
        },
        LocalIntent::Private => {
            "That stays on the phone, and the phone alone has no answer to it.".to_owned()
        }
        LocalIntent::Device => "This phone has no control for that.".to_owned(),
        LocalIntent::Gesture => "Listening.".to_owned(),
        LocalIntent::Photo => "I have the picture. Ask me about it.".to_owned(),
        LocalIntent::NotHeard => "I did not hear any words.".to_owned(),
        LocalIntent::TooLong => {
            "That was more than one request can carry. Please ask in fewer words.".to_owned()
        }
    }
}

fn counted(number: usize, what: &str) -> String {
    match number {
        1 => format!("1 {what}"),
        _ => format!("{number} {what}s"),
    }
}

/// A number in one unit, wanted in another of the same dimension.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Conversion {
    value: f64,
    from: &'static Unit,
    to: &'static Unit,
}

#[derive(Debug, PartialEq)]
struct Unit {
    /// The name in an answer, then what else it is called.
    names: &'static [&'static str],
    dimension: Dimension,
    /// How many of the dimension's base unit it is, and where its zero lies in base units.
    factor: f64,
    offset: f64,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Dimension {
    Length,
    Mass,
    Volume,
    Temperature,
}

/// NIST Special Publication 811, appendix B: the exact definitions of the inch, the pound and the US gallon.
static UNITS: [Unit; 16] = {
    use Dimension::*;
    const fn unit(
        names: &'static [&'static str],
        dimension: Dimension,
        factor: f64,
        offset: f64,
    ) -> Unit {
        Unit {
            names,
            dimension,
            factor,
            offset,
        }
    }
    [
        unit(
            &["meters", "meter", "metres", "metre", "m"],
            Length,
            1.0,
            0.0,
        ),
        unit(
            &["kilometers", "kilometer", "kilometres", "kilometre", "km"],
            Length,
            1000.0,
            0.0,
        ),
        unit(
            &[
                "centimeters",
                "centimeter",
                "centimetres",
                "centimetre",
                "cm",
            ],
            Length,
            0.01,
            0.0,
        ),
        unit(
            &[
                "millimeters",
                "millimeter",
                "millimetres",
                "millimetre",
                "mm",
            ],
            Length,
            0.001,
            0.0,
        ),
        unit(&["miles", "mile", "mi"], Length, 1609.344, 0.0),
        unit(&["feet", "foot", "ft"], Length, 0.3048, 0.0),
        unit(&["inches", "inch"], Length, 0.0254, 0.0),
        unit(
            &["kilograms", "kilogram", "kilos", "kilo", "kg"],
            Mass,
            1.0,
            0.0,
        ),
        unit(&["grams", "gram", "g"], Mass, 0.001, 0.0),
        unit(&["pounds", "pound", "lb", "lbs"], Mass, 0.453_592_37, 0.0),
        unit(&["ounces", "ounce", "oz"], Mass, 0.028_349_523_125, 0.0),
        unit(&["tonnes", "tonne"], Mass, 1000.0, 0.0),
        unit(
            &["liters", "liter", "litres", "litre", "l"],
            Volume,
            1.0,
            0.0,
        ),
        unit(&["gallons", "gallon", "gal"], Volume, 3.785_411_784, 0.0),
        unit(
            &["degrees celsius", "celsius", "centigrade"],
            Temperature,
            1.0,
            0.0,
        ),
        unit(
            &["degrees fahrenheit", "fahrenheit"],
            Temperature,
            5.0 / 9.0,
            -160.0 / 9.0,
        ),
    ]
};

impl Conversion {
    /// Finds a number and two units of one dimension in `words` (lower case, without punctuation). The unit that stands
    /// right behind the number is the one it has; the other one is wanted.
    pub(super) fn find(words: &[&str]) -> Option<Self> {
        let unit = |word: &str| UNITS.iter().find(|unit| unit.names.contains(&word));
        let at = words
            .iter()
            .position(|word| word.parse::<f64>().is_ok_and(f64::is_finite))?;
        let value = words[at].parse().ok()?;
        let mut behind = words[at + 1..]
            .iter()
            .skip_while(|word| **word == "degrees");
        let from = unit(behind.next()?)?;
        let mut others = words
            .iter()
            .filter_map(|word| unit(word))
            .filter(|unit| *unit != from);
        let to = others.next()?;
        (from.dimension == to.dimension).then_some(Self { value, from, to })
    }

    fn converted(&self) -> f64 {
        (self.value * self.from.factor + self.from.offset - self.to.offset) / self.to.factor
    }
}

impl std::fmt::Display for Conversion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let number = |value: f64| {
            let text = format!("{value:.3}");
            text.trim_end_matches('0').trim_end_matches('.').to_owned()
        };
        let (value, converted) = (number(self.value), number(self.converted()));
        write!(
            f,
            "{value} {} are {converted} {}.",
            self.from.names[0], self.to.names[0]
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn conversions() {
        let table = [
            (
                "convert 5 miles to kilometers",
                Some("5 miles are 8.047 kilometers."),
            ),
            (
                "how many pounds are 20 kg",
                Some("20 kilograms are 44.092 pounds."),
            ),
            (
                "what is 72 degrees fahrenheit in celsius",
                Some("72 degrees fahrenheit are 22.222 degrees celsius."),
            ),
            (
                "what is -40 celsius in fahrenheit",
                Some("-40 degrees celsius are -40 degrees fahrenheit."),
            ),
            ("12 inches in feet", Some("12 inches are 1 feet.")),
            (
                "2.5 gallons to liters",
                Some("2.5 gallons are 9.464 liters."),
            ),
            ("5 miles to kilograms", None),
            ("5 miles", None),
            ("miles to kilometers", None),
            ("nan miles to kilometers", None),
            ("5 apples to kilometers", None),
        ];
        for (text, expected) in table {
            let words: Vec<&str> = text.split(' ').collect();
            let found = Conversion::find(&words).map(|conversion| conversion.to_string());
            assert_eq!(found.as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn answers_come_from_what_the_phone_knows() {
        let now = at("2026-11-21T09:05:07.000000Z");
        let mut facts = Facts::default();
        let mut ask = |intent: LocalIntent| answer(&intent, &mut facts, now);
        assert_eq!(ask(LocalIntent::Time), "It is 09:05 UTC.");
        assert_eq!(ask(LocalIntent::Date), "Today is 2026-11-21.");
        assert_eq!(ask(LocalIntent::ReadNotes), "You have no notes.");
        assert_eq!(
            ask(LocalIntent::Note("call Bo".into())),
            "Noted. You have 1 note on this phone."
        );
        assert_eq!(
            ask(LocalIntent::Note("valve 7".into())),
            "Noted. You have 2 notes on this phone."
        );
        assert_eq!(
            ask(LocalIntent::ReadNotes),
            "Your notes: 1. call Bo 2. valve 7"
        );
        assert_eq!(
            ask(LocalIntent::Briefing),
            "There is no briefing on this phone."
        );
        assert!(ask(LocalIntent::Battery).contains("does not report"));
        facts.briefing = Some("Board at nine.\n".into());
        (facts.battery, facts.sensor_battery_low) = (Some(41), true);
        let mut ask = |intent: LocalIntent| answer(&intent, &mut facts, now);
        assert_eq!(ask(LocalIntent::Briefing), "Board at nine.");
        assert_eq!(
            ask(LocalIntent::Battery),
            "The phone is at 41 percent; the glasses are low."
        );
    }
}
