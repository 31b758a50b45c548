//! Figures as a picture for people: bars that grow from the left, one group for each figure.

/// One figure of every contestant, the first to draw first.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) title: &'static str,
    pub(super) unit: &'static str,
    pub(super) bars: Vec<Bar>,
}

/// Who reached how much.
#[derive(Debug)]
pub(super) struct Bar {
    pub(super) name: String,
    pub(super) median: f64,
    /// Smallest and largest.
    pub(super) range: (f64, f64),
}

const WIDTH: f64 = 720.0;
const NAME_WIDTH: f64 = 150.0;
const VALUE_WIDTH: f64 = 130.0;
const BAR_HEIGHT: f64 = 18.0;
const ROW_HEIGHT: f64 = 24.0;
const TITLE_HEIGHT: f64 = 34.0;

/// Draws all groups below each other, readable on light and on dark. Source: SVG 1.1.
pub(super) fn draw(groups: &[Group]) -> String {
    let rows: usize = groups.iter().map(|group| group.bars.len()).sum();
    let height = groups.iter().map(|_| TITLE_HEIGHT).sum::<f64>()
        + (0..rows).map(|_| ROW_HEIGHT).sum::<f64>();
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
         viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" font-size=\"13\" fill=\"#777\">\n"
    );
    let mut top = 0.0;
    for group in groups {
        let base = top + TITLE_HEIGHT - 12.0;
        write(
            &mut text,
            &format!(
                "<text x=\"0\" y=\"{base}\" font-weight=\"bold\">{} ({})</text>",
                group.title, group.unit
            ),
        );
        top += TITLE_HEIGHT;
        let largest = group.bars.iter().map(|bar| bar.range.1).fold(0.0, f64::max);
        for bar in &group.bars {
            write(&mut text, &line(bar, largest, top));
            top += ROW_HEIGHT;
        }
    }
    text.push_str("</svg>\n");
    text
}

/// One bar with its name, its figure, and a thin line for its range.
fn line(bar: &Bar, largest: f64, top: f64) -> String {
    let scale = (WIDTH - NAME_WIDTH - VALUE_WIDTH) / largest.max(f64::MIN_POSITIVE);
    let at = |value: f64| NAME_WIDTH + value * scale;
    let color = if bar.name.starts_with("cardea") {
        "#2f7d4f"
    } else {
        "#9aa5b1"
    };
    let (base, middle) = (top + 14.0, top + BAR_HEIGHT / 2.0);
    let Bar {
        name,
        median,
        range: (least, most),
    } = bar;
    format!(
        "<text x=\"{:.1}\" y=\"{base}\" text-anchor=\"end\">{name}</text>\
         <rect x=\"{NAME_WIDTH}\" y=\"{top}\" width=\"{:.1}\" height=\"{BAR_HEIGHT}\" fill=\"{color}\"/>\
         <line x1=\"{:.1}\" y1=\"{middle}\" x2=\"{:.1}\" y2=\"{middle}\" stroke=\"#222\"/>\
         <text x=\"{:.1}\" y=\"{base}\">{median:.2} ({least:.2}-{most:.2})</text>",
        NAME_WIDTH - 8.0,
        median * scale,
        at(*least),
        at(*most),
        at(*most) + 8.0,
    )
}

fn write(text: &mut String, line: &str) {
    text.push_str(line);
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_bar_fills_the_room_and_half_as_much_half_of_it() {
        let bar = |name: &str, median| Bar {
            name: name.to_owned(),
            median,
            range: (median, median),
        };
        let drawn = draw(&[Group {
            title: "TCP",
            unit: "Gbit/s",
            bars: vec![bar("cardea quic", 4.0), bar("other", 2.0)],
        }]);
        let room = WIDTH - NAME_WIDTH - VALUE_WIDTH;
        let widths: Vec<_> = drawn
            .split("height=\"18\" fill=")
            .filter_map(|part| part.rsplit_once("width=\"")?.1.split('"').next())
            .map(str::to_owned)
            .collect();
        assert_eq!(
            widths[..2],
            [format!("{room:.1}"), format!("{:.1}", room / 2.0)]
        );
        assert!(drawn.contains("4.00 (4.00-4.00)"), "{drawn}");
    }
}
