package main

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"math"
	"strconv"
)

// line is one series.
type line struct {
	label  string
	points [][2]float64
	dashed bool
}

// Sizes in pixels.
const (
	width, height            = 760, 440
	left, right, top, bottom = 70, 20, 44, 56
)

// colours can be told apart by most people with a colour vision deficiency.
func colour(i int) string {
	return []string{"#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000"}[i%7]
}

// axis maps values to pixels.
type axis struct {
	low, high  float64
	log        bool
	start, end float64 // pixels of low and high
	ticks      []float64
}

func (a *axis) at(v float64) float64 {
	low, high := a.low, a.high
	if a.log {
		low, high, v = math.Log10(low), math.Log10(high), math.Log10(v)
	}
	return a.start + (v-low)/(high-low)*(a.end-a.start)
}

// fit chooses bounds and ticks for values.
func (a *axis) fit(values []float64) error {
	low, high := math.Inf(1), math.Inf(-1)
	for _, v := range values {
		if a.log && v <= 0 {
			return fmt.Errorf("%g on an axis with a logarithmic scale", v)
		}
		low, high = min(low, v), max(high, v)
	}
	if len(values) == 0 {
		return fmt.Errorf("no points")
	}
	if a.log {
		a.low, a.high = niceBelow(low), niceAbove(high)
		if a.low == a.high {
			a.high *= 10
		}
		for decade := math.Pow10(int(math.Floor(math.Log10(a.low)))); decade <= a.high*1.0001; decade *= 10 {
			for _, m := range []float64{1, 2, 5} {
				if v := decade * m; v >= a.low*0.9999 && v <= a.high*1.0001 {
					a.ticks = append(a.ticks, v)
				}
			}
		}
		return nil
	}
	low = min(low, 0)
	if high <= low {
		high = low + 1
	}
	step := niceAbove((high - low) / 6)
	a.low, a.high = math.Floor(low/step)*step, math.Ceil(high/step)*step
	for i := 0; a.low+float64(i)*step <= a.high*1.0001; i++ {
		a.ticks = append(a.ticks, a.low+float64(i)*step)
	}
	return nil
}

// niceAbove is the least of 1, 2, 5 times a power of ten that v does not
// exceed; niceBelow the largest that does not exceed v.
func niceAbove(v float64) float64 {
	decade := math.Pow10(int(math.Floor(math.Log10(v))))
	for _, m := range []float64{1, 2, 5} {
		if v <= decade*m*1.0001 {
			return decade * m
		}
	}
	return decade * 10
}

func niceBelow(v float64) float64 {
	decade := math.Pow10(int(math.Floor(math.Log10(v))))
	for _, m := range []float64{5, 2} {
		if v >= decade*m*0.9999 {
			return decade * m
		}
	}
	return decade
}

// number writes 1500000 as 1.5M.
func number(v float64) string {
	switch {
	case v >= 1e6:
		return strconv.FormatFloat(v/1e6, 'g', 4, 64) + "M"
	case v >= 1e4:
		return strconv.FormatFloat(v/1e3, 'g', 4, 64) + "k"
	}
	return strconv.FormatFloat(v, 'g', 4, 64)
}

// text escapes what people wrote.
func text(s string) string {
	var b bytes.Buffer
	_ = xml.EscapeText(&b, []byte(s))
	return b.String()
}

// draw makes the picture.
func draw(c *chartSpec, lines []line) ([]byte, error) {
	x := axis{log: c.LogX, start: left, end: width - right}
	y := axis{log: c.LogY, start: height - bottom, end: top}
	var xs, ys []float64
	for _, l := range lines {
		for _, p := range l.points {
			xs, ys = append(xs, p[0]), append(ys, p[1])
		}
	}
	if err := x.fit(xs); err != nil {
		return nil, err
	}
	if err := y.fit(ys); err != nil {
		return nil, err
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12">`+"\n", width, height, width, height)
	fmt.Fprintf(&b, `<rect width="%d" height="%d" fill="#fff"/>`+"\n", width, height)
	fmt.Fprintf(&b, `<text x="%d" y="20" font-size="15" font-weight="bold">%s</text>`+"\n", left, text(c.Title))
	for _, v := range x.ticks {
		fmt.Fprintf(&b, `<path d="M%.1f %d V%d" stroke="#ddd"/><text x="%.1f" y="%d" text-anchor="middle">%s</text>`+"\n",
			x.at(v), height-bottom, top, x.at(v), height-bottom+16, number(v))
	}
	for _, v := range y.ticks {
		fmt.Fprintf(&b, `<path d="M%d %.1f H%d" stroke="#ddd"/><text x="%d" y="%.1f" text-anchor="end">%s</text>`+"\n",
			left, y.at(v), width-right, left-6, y.at(v)+4, number(v))
	}
	fmt.Fprintf(&b, `<path d="M%d %d V%d H%d" fill="none" stroke="#000"/>`+"\n", left, top, height-bottom, width-right)
	fmt.Fprintf(&b, `<text x="%d" y="%d" text-anchor="middle">%s</text>`+"\n", (left+width-right)/2, height-bottom+38, text(c.X))
	fmt.Fprintf(&b, `<text transform="translate(16 %d) rotate(-90)" text-anchor="middle">%s</text>`+"\n", (top+height-bottom)/2, text(c.Y))
	for i, l := range lines {
		drawLine(&b, &x, &y, i, l)
	}
	legend(&b, lines)
	b.WriteString("</svg>\n")
	return b.Bytes(), nil
}

func drawLine(b *bytes.Buffer, x, y *axis, i int, l line) {
	fmt.Fprintf(b, `<polyline fill="none" stroke="%s" stroke-width="2"%s points="`, colour(i), l.dash())
	for _, p := range l.points {
		fmt.Fprintf(b, "%.1f,%.1f ", x.at(p[0]), y.at(p[1]))
	}
	b.WriteString(`"/>` + "\n")
	for _, p := range l.points {
		fmt.Fprintf(b, `<circle cx="%.1f" cy="%.1f" r="3" fill="%s"><title>%s: %s at %s</title></circle>`+"\n", x.at(p[0]), y.at(p[1]), colour(i), text(l.label), number(p[1]), number(p[0]))
	}
}

// legend stands over the lines, on a ground that they shine through.
func legend(b *bytes.Buffer, lines []line) {
	longest := 0
	for _, l := range lines {
		longest = max(longest, len(l.label))
	}
	fmt.Fprintf(b, `<rect x="%d" y="%d" width="%d" height="%d" fill="#fff" fill-opacity="0.8"/>`+"\n", left+6, top+2, 48+7*longest, 16*len(lines)+4)
	for i, l := range lines {
		at := top + 14 + 16*i
		fmt.Fprintf(b, `<path d="M%d %d h24" stroke="%s" stroke-width="2"%s/><text x="%d" y="%d">%s</text>`+"\n", left+12, at-4, colour(i), l.dash(), left+42, at, text(l.label))
	}
}

func (l *line) dash() string {
	if l.dashed {
		return ` stroke-dasharray="6 4"`
	}
	return ""
}
