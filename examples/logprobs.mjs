// How sure was the model? Log-probabilities of generated tokens, of a given text, and the raw logits.
import { Qwen3 } from 'qwen3'

const model = await Qwen3.load('nano')
try {
  const { logprobs } = await model.chat('What is 2+3?', { thinking: false, logprobs: 2, seed: 1 }).result()
  // One entry for each token; those that carry no text (tags, the end token) have the segment 'control'.
  for (const { token, logprob, top } of logprobs.filter(({ segment }) => segment === 'text'))
    console.log(
      JSON.stringify(token),
      logprob.toFixed(3),
      top.map(({ token, logprob }) => `${JSON.stringify(token)} ${logprob.toFixed(2)}`).join('  '),
    )

  const ids = model.tokenizer.encode('12 + 30 = 42')
  const scores = await model.score(ids)
  console.log('log-probability of the text:', scores.reduce((sum, value) => sum + value, 0).toFixed(2))

  const logits = await model.logits(ids)
  console.log(
    `${logits.length} logits; the likeliest next token is`,
    JSON.stringify(model.tokenizer.decode([logits.indexOf(Math.max(...logits))])),
  )
} finally {
  await model.close()
}
