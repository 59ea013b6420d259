FROM BASE
RUN mkdir /x && touch /x/a /x/b
RUN rm /x/a && rm -rf /home && mkdir /home && touch /home/n
