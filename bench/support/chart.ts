/** A line chart as SVG text: deterministic, so that a new run changes only what was measured. */

export interface Series {
  name: string
  colour: string
  dashed?: boolean
  /** y in [0, 1] with its interval. */
  points: { x: number; y: number; low: number; high: number }[]
}

export interface Chart {
  title: string
  subtitle: string
  xLabel: string
  yLabel: string
  /** Where ticks are drawn; they are spaced evenly, because budgets grow by factors. */
  ticks: { x: number; label: string }[]
  panels: { title: string; series: Series[] }[]
}

const panel = { width: 400, height: 300, left: 56, right: 16, top: 84, bottom: 112 }

export function lineChart(chart: Chart): string {
  const width = chart.panels.length * panel.width
  const height = panel.top + panel.height + panel.bottom - 40
  const body = chart.panels.map(
    (one, index) => `<g transform="translate(${index * panel.width} 0)">${drawPanel(chart, one, index)}</g>`,
  )
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" font-family="system-ui, sans-serif" font-size="12">`,
    `<title>${escapeText(chart.title)}</title>`,
    `<rect width="${width}" height="${height}" fill="#ffffff"/>`,
    `<text x="${panel.left}" y="26" font-size="16" font-weight="600" fill="#111">${escapeText(chart.title)}</text>`,
    `<text x="${panel.left}" y="45" fill="#555">${escapeText(chart.subtitle)}</text>`,
    ...body,
    '</svg>',
    '',
  ].join('\n')
}

function drawPanel(chart: Chart, { title, series }: Chart['panels'][number], index: number): string {
  const bottom = panel.top + panel.height - 60
  const right = panel.width - panel.right
  const xOf = (x: number) => {
    const at = chart.ticks.findIndex((tick) => tick.x === x)
    if (at < 0) throw new RangeError(`no tick at ${x}`)
    return round(panel.left + 10 + (at * (right - panel.left - 20)) / (chart.ticks.length - 1))
  }
  const yOf = (y: number) => round(bottom - y * (bottom - panel.top))
  const out = [
    `<text x="${panel.left}" y="${panel.top - 12}" font-weight="600" fill="#111">${escapeText(title)}</text>`,
  ]
  for (let percent = 0; percent <= 100; percent += 20) {
    const y = yOf(percent / 100)
    out.push(`<line x1="${panel.left}" x2="${right}" y1="${y}" y2="${y}" stroke="#e4e4e4"/>`)
    out.push(`<text x="${panel.left - 8}" y="${y + 4}" text-anchor="end" fill="#555">${percent}%</text>`)
  }
  for (const { x, label } of chart.ticks)
    out.push(`<text x="${xOf(x)}" y="${bottom + 18}" text-anchor="middle" fill="#555">${escapeText(label)}</text>`)
  out.push(
    `<text x="${(panel.left + right) / 2}" y="${bottom + 38}" text-anchor="middle" fill="#333">${escapeText(chart.xLabel)}</text>`,
  )
  if (index === 0)
    out.push(
      `<text transform="translate(16 ${(panel.top + bottom) / 2}) rotate(-90)" text-anchor="middle" fill="#333">${escapeText(chart.yLabel)}</text>`,
    )
  series.forEach((one, row) => {
    out.push(drawSeries(one, xOf, yOf))
    out.push(legend(one, panel.left, bottom + 58 + 18 * row))
  })
  return out.join('\n')
}

function drawSeries(
  { colour, dashed, points }: Series,
  xOf: (x: number) => number,
  yOf: (y: number) => number,
): string {
  const path = points.map(({ x, y }, index) => `${index === 0 ? 'M' : 'L'}${xOf(x)} ${yOf(y)}`).join(' ')
  const marks = points.flatMap(({ x, y, low, high }) => [
    `<line x1="${xOf(x)}" x2="${xOf(x)}" y1="${yOf(low)}" y2="${yOf(high)}" stroke="${colour}" stroke-opacity="0.5"/>`,
    `<circle cx="${xOf(x)}" cy="${yOf(y)}" r="3" fill="${colour}"/>`,
  ])
  return [
    `<path d="${path}" fill="none" stroke="${colour}" stroke-width="2"${dashed ? ' stroke-dasharray="5 4"' : ''}/>`,
    ...marks,
  ].join('\n')
}

function legend({ name, colour, dashed }: Series, x: number, y: number): string {
  return (
    `<line x1="${x}" x2="${x + 24}" y1="${y - 4}" y2="${y - 4}" stroke="${colour}" stroke-width="2"${dashed ? ' stroke-dasharray="5 4"' : ''}/>` +
    `<text x="${x + 32}" y="${y}" fill="#333">${escapeText(name)}</text>`
  )
}

const round = (value: number) => Math.round(value * 10) / 10
const escapeText = (text: string) => text.replace(/[&<>"]/g, (char) => `&#${char.charCodeAt(0)};`)
