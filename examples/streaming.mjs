// Thinking and answer arrive as separate events; no tag ever appears in the text.
import { Qwen3 } from 'qwen3'

const model = await Qwen3.load('nano')
try {
  const stream = model.chat(
    'Tom has 12 apples. Day 1: he buys 30. Day 2: he loses 7. How many apples does Tom have now?',
    { seed: 1 },
  )
  for await (const event of stream) {
    if (event.type === 'thinking') process.stdout.write(`\x1b[2m${event.text}\x1b[0m`)
    else if (event.type === 'text') process.stdout.write(event.text)
  }
  const { usage, finishReason, thinkingStop } = await stream.result()
  console.log(`\n${finishReason}, thinking ended: ${thinkingStop}`)
  console.log(`${usage.promptTokens} prompt, ${usage.thinkingTokens} thinking, ${usage.answerTokens} answer tokens`)
} finally {
  await model.close()
}
