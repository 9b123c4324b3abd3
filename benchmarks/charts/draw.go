package main

import (
	"bytes"
	"fmt"
	"image/color"
	"math"
	"slices"
	"strconv"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

const width, height = 16 * vg.Centimeter, 9 * vg.Centimeter

// inks can be told apart by those who see fewer colours, and the marks by those who see none.
var inks = []color.RGBA{
	{0, 114, 178, 255}, {213, 94, 0, 255}, {0, 158, 115, 255}, {204, 121, 167, 255},
	{86, 180, 233, 255}, {230, 159, 0, 255}, {90, 90, 90, 255}, {0, 0, 0, 255},
}

var marks = []draw.GlyphDrawer{
	draw.CircleGlyph{}, draw.SquareGlyph{}, draw.TriangleGlyph{}, draw.PyramidGlyph{}, draw.RingGlyph{}, draw.BoxGlyph{},
	draw.CrossGlyph{}, draw.PlusGlyph{},
}

// draw makes the picture of a chart as SVG.
func (c chart) draw(lines []line) ([]byte, error) {
	plot.DefaultFont = font.Font{Typeface: "Liberation", Variant: "Sans"}
	p := plot.New()
	p.Title.Text, p.X.Label.Text, p.Y.Label.Text = c.title, c.x, c.y
	p.Title.Padding = vg.Points(6)
	p.Legend.Top, p.Legend.Left, p.Legend.Padding = true, true, vg.Points(2)
	p.Add(grid())

	places := axis(lines)
	lowest, highest := math.Inf(1), 0.0
	for i, l := range lines {
		dots := make(plotter.XYs, len(l.values))
		for j, value := range l.values {
			dots[j] = plotter.XY{X: float64(slices.Index(places, l.places[j])), Y: value}
			lowest, highest = min(lowest, value), max(highest, value)
		}
		slices.SortFunc(dots, func(a, b plotter.XY) int { return int(a.X - b.X) })
		path, marked, err := plotter.NewLinePoints(dots)
		if err != nil {
			return nil, fmt.Errorf("line %q: %w", l.name, err)
		}
		ink := inks[i%len(inks)]
		path.Color, path.Width = ink, vg.Points(1.5)
		marked.Color, marked.Shape, marked.Radius = ink, marks[i%len(marks)], vg.Points(3)
		p.Add(path, marked)
		p.Legend.Add(l.name, path, marked)
	}
	written := make([]string, len(places))
	for i, place := range places {
		written[i] = c.written(place)
	}
	p.NominalX(written...)
	p.X.Min, p.X.Max = -0.25, float64(len(places))-0.75
	if c.logarithmic && lowest > 0 {
		p.Y.Scale, p.Y.Tick.Marker = plot.LogScale{}, decades{}
		p.Y.Min = math.Pow(10, math.Floor(math.Log10(lowest)))
		p.Y.Max = math.Pow(10, math.Ceil(math.Log10(highest*3))) // room for the names of the lines
	} else {
		p.Y.Min, p.Y.Max, p.Y.Tick.Marker = 0, highest*1.4, thousands{}
	}

	canvas := vgsvg.New(width, height)
	p.Draw(draw.New(canvas))
	var out bytes.Buffer
	if _, err := canvas.WriteTo(&out); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

func grid() *plotter.Grid {
	lines := plotter.NewGrid()
	lines.Vertical.Color = nil
	lines.Horizontal.Color = color.RGBA{220, 220, 220, 255}
	return lines
}

// decades marks the powers of ten of a logarithmic axis.
type decades struct{}

func (decades) Ticks(low, high float64) (ticks []plot.Tick) {
	for value := low; value <= high*1.001; value *= 10 {
		ticks = append(ticks, plot.Tick{Value: value, Label: strconv.FormatFloat(value, 'f', -1, 64)})
	}
	return ticks
}

// thousands writes large numbers short.
type thousands struct{}

func (thousands) Ticks(low, high float64) []plot.Tick {
	ticks := plot.DefaultTicks{}.Ticks(low, high)
	for i := range ticks {
		if ticks[i].Label != "" {
			ticks[i].Label = count(int64(ticks[i].Value))
		}
	}
	return ticks
}
